"""LFQ and BSQ: corners, and entropies that are exact without sites x codes."""

import math

import pytest
import torch
from diffusers import VQModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import contract
import tiny
from calotype.tokenizers import ImageTokenizer, fingerprint, fold, measure
from calotype.tokenizers.bottlenecks import BSQ, LFQ, Entropy, lookup_free

SPECS = {
    "lfq": LFQ(5, entropy=Entropy(0.3, 0.2, 0.5)),
    "bsq": BSQ(5, 0.25, Entropy(0.3, 0.2, 0.5)),
    "sharp": LFQ(5, entropy=Entropy(0.3, 0.2, 0.01)),
    "one bit": LFQ(1, entropy=Entropy(0.3, 0.2, 0.5)),
}
LARGE = LFQ(18)


@pytest.mark.parametrize("promise", contract.PROMISES)
@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_keeps_the_contract(name, promise, tmp_path):
    promise(SPECS[name], tmp_path)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_code_is_found_again(spec):
    bottleneck = spec.build()
    ids = torch.arange(2**spec.bits)[:, None, None]
    corners = bottleneck.embed(ids)
    assert torch.equal(bottleneck.find(corners), ids)
    assert len(corners.flatten(1).unique(dim=0)) == 2**spec.bits
    assert corners.abs().unique().numel() == 1


def test_corners_are_the_cubes_and_the_spheres():
    ids = torch.arange(32)[:, None, None]
    assert (SPECS["lfq"].build().embed(ids).abs() == 1).all()
    torch.testing.assert_close(SPECS["bsq"].build().embed(ids).norm(dim=1), torch.ones(32, 1, 1))


def test_the_first_channel_is_the_least_significant_bit():
    """Index of Yu et al. 2023, eq. 4; a channel of exactly 0 counts as negative."""
    x = torch.tensor([0.3, -2, 0, 1, -1])[None, :, None, None]
    assert SPECS["lfq"].build().find(x).item() == 0b01001


@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_the_gradient_goes_straight_through(name):
    spec, h = SPECS[name], contract.features(SPECS[name]).requires_grad_()
    other = h.detach().clone().requires_grad_()
    weight = torch.randn_like(h)
    (spec.build()(h).z * weight).sum().backward()
    (spec.compared(other) * weight).sum().backward()
    assert h.grad is not None and other.grad is not None
    torch.testing.assert_close(h.grad, other.grad)


def naive(spec, h: torch.Tensor) -> dict[str, torch.Tensor]:
    """The published form, in float64: a softmax over all corners at every site, and the entropy of
    their mean."""
    x = spec.compared(h.double()).movedim(1, -1).flatten(0, 2)
    corners = spec.build().embed(torch.arange(2**spec.bits)[:, None, None])[:, :, 0, 0].double()
    log_p = (2 * x @ corners.T / spec.entropy.temperature).log_softmax(1)
    mean = log_p.exp().mean(0)
    q = corners[log_p.argmax(1)]
    return {
        "commitment": spec.commitment * (x - q).square().mean(),
        "entropy": -spec.entropy.sample * (log_p.exp() * log_p).sum(1).mean(),
        "codebook_entropy": spec.entropy.codebook * (mean * mean.clamp_min(1e-300).log()).sum(),
    }


@pytest.mark.parametrize("scale", [0.02, 1.0])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_penalties_are_the_published_ones_in_value_and_gradient(spec, scale):
    h = (scale * contract.features(spec)).requires_grad_()
    ours, published = spec.build()(h).penalties, naive(spec, h)
    assert ours.keys() == published.keys()
    for name, value in published.items():
        mean = ours[name].double().mean()
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-7)
        (expected,) = torch.autograd.grad(value, h, retain_graph=True)
        (found,) = torch.autograd.grad(mean, h, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=3e-5 * expected.abs().max())


def test_entropies_have_their_extremes():
    """Sure and even: 0 nats at a site, all bits' in the batch."""
    bottleneck = LFQ(3, entropy=Entropy(1.0, 1.0)).build()
    corners = bottleneck.embed(torch.arange(8)[:, None, None])
    penalties = bottleneck(corners).penalties
    assert penalties["entropy"].max() < 1e-6 and penalties["commitment"].max() == 0
    torch.testing.assert_close(penalties["codebook_entropy"], torch.full((8,), -3 * math.log(2)))
    unsure = bottleneck(torch.zeros_like(corners)).penalties["entropy"]
    torch.testing.assert_close(unsure, torch.full((8,), 3 * math.log(2)))


def whole_and_halves(spec) -> tuple[torch.Tensor, list[torch.Tensor]]:
    h = contract.features(spec)
    return h, [h[:4], h[4:]]


def test_micro_batches_share_one_codebook_entropy():
    spec = SPECS["lfq"]
    h, parts = whole_and_halves(spec)
    bottleneck = spec.build()
    assert not bottleneck.wants_survey(1) and bottleneck.wants_survey(2)
    whole = bottleneck(h).penalties["codebook_entropy"]
    bottleneck.step_end()
    bottleneck.survey(parts, contract.KEYS)
    both = torch.cat([bottleneck(part).penalties["codebook_entropy"] for part in parts])
    torch.testing.assert_close(both, whole)
    for forget in (bottleneck.step_end, bottleneck.step_skipped):
        forget()
        alone = bottleneck(parts[0]).penalties["codebook_entropy"]
        assert (alone - whole[:4]).abs().max() > 1e-3
        bottleneck.survey(parts, contract.KEYS)


def test_ranks_share_one_codebook_entropy(monkeypatch):
    spec = SPECS["bsq"]
    h, parts = whole_and_halves(spec)
    bottleneck = spec.build()
    whole = bottleneck(h).penalties["codebook_entropy"]
    means = []
    monkeypatch.setattr(lookup_free, "all_mean", lambda mean: means.append(mean) or mean)
    for part in parts:
        bottleneck(part)
    monkeypatch.setattr(lookup_free, "all_mean", lambda _: torch.stack(means).mean(0))
    both = torch.cat([bottleneck(part).penalties["codebook_entropy"] for part in parts])
    torch.testing.assert_close(both, whole)


def test_a_rank_evaluates_alone(monkeypatch):
    """Only the main rank draws previews: it must not wait for the others."""
    monkeypatch.setattr(lookup_free, "all_mean", lambda _: pytest.fail("it waits"))
    SPECS["lfq"].build().eval()(contract.features(SPECS["lfq"]))


def test_what_weighs_nothing_is_left_out():
    bottleneck = LFQ(5, 0.0, Entropy(0.0, 0.0)).build()
    assert bottleneck(contract.features(SPECS["lfq"])).penalties == {}
    assert not bottleneck.wants_survey(2)


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


def test_sites_times_codes_are_never_held():
    """18 bits and 64 x 16 x 16 sites: 16 GiB as one table, 32 MiB as halves."""
    bottleneck = LARGE.build()
    h = contract.features(LARGE, count=4).repeat(16, 1, 4, 4).requires_grad_()
    with Largest() as largest:
        torch.stack([term.mean() for term in bottleneck(h).penalties.values()]).sum().backward()
    assert h.grad is not None and h.grad.isfinite().all() and h.grad.any()
    assert largest.elements <= 64 * 16 * 16 * 2**9


@pytest.mark.parametrize("name", ["lfq", "bsq"])
@torch.no_grad()
def test_a_stock_vqmodel_does_the_same(name, tmp_path):
    tokenizer, image = contract.tokenizer(SPECS[name]), tiny.images(8)
    fold(tokenizer, measure(tokenizer, [{"image": image, "key": contract.KEYS}]))
    tokenizer.save(tmp_path / "model")
    stock = VQModel.from_pretrained(tmp_path / "model", use_safetensors=True)
    assert isinstance(stock, VQModel)
    h = stock.encode(image).latents
    ids = stock.quantize(h)[2][2].reshape(8, *h.shape[2:])
    assert torch.equal(ids.int(), tokenizer.pack(image))
    torch.testing.assert_close(
        stock.decode(h).sample, tokenizer.reconstruct(image), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_too_many_corners_for_a_table_are_kept_by_their_rule(tmp_path):
    tokenizer, image = contract.tokenizer(LARGE), tiny.images(8)
    assert tokenizer.export() is None
    tokenizer.save(tmp_path / "model")
    weights = sum(file.stat().st_size for file in (tmp_path / "model").iterdir())
    assert weights < 2**18 * 18
    loaded = ImageTokenizer.load(tmp_path / "model")
    assert torch.equal(loaded.pack(image), tokenizer.pack(image))
    assert torch.equal(loaded.reconstruct(image), tokenizer.reconstruct(image))


def test_a_fingerprint_knows_the_cube():
    ours, other = contract.tokenizer(LFQ(4)), contract.tokenizer(BSQ(4))
    other.autoencoder.load_state_dict(ours.autoencoder.state_dict())
    assert fingerprint(ours) != fingerprint(other)


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match=r"bottleneck\.bits is 25"):
        LFQ(25)
    with pytest.raises(ValueError, match=r"entropy\.temperature is 0"):
        Entropy(temperature=0.0)
