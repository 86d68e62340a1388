"""The dVAE's bottleneck: its divergence and that one's unit, its noise, its two estimators, its
schedules.
"""

import json
import math
from dataclasses import replace

import pytest
import torch

import contract
import tiny
from calotype.data import Scenes
from calotype.tokenizers import Backbone, ImageTokenizer, Reconstruction, psnr
from calotype.tokenizers.bottlenecks import Gumbel, GumbelBottleneck
from calotype.tokenizers.bottlenecks.gumbel import Hard, Relaxed, gumbel_noise, reseeded, to_uniform
from calotype.tokenizers.terms import L2
from calotype.training import AdamW, fit
from calotype.training.noise import generators
from calotype.training.schedules import Constant, Cosine

SPEC = Gumbel(16, 4, temperature=Cosine(1.0, 1 / 16, 40), kl_weight=Cosine(0.01, 0.05, 20))
SPECS = {"relaxed": SPEC, "hard": replace(SPEC, estimator=Hard())}
KEYS = contract.KEYS


@pytest.mark.parametrize("promise", contract.PROMISES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_keeps_the_contract(spec, promise, tmp_path):
    promise(spec, tmp_path)


def made(spec: Gumbel) -> GumbelBottleneck:
    """With codes of several norms, as training leaves them."""
    bottleneck = contract.bottleneck(spec)
    assert isinstance(bottleneck, GumbelBottleneck)
    with torch.no_grad():
        bottleneck.codebook.mul_(torch.linspace(0.2, 1, spec.codes)[:, None])
    return bottleneck


def fresh(spec: Gumbel, widths: tuple[int, ...], size: int, groups: int) -> ImageTokenizer:
    torch.manual_seed(0)
    backbone = Backbone(widths, 1, attention=False, groups=groups)
    return ImageTokenizer(backbone.autoencoder(spec, size), spec.build())


def logits_of(tokenizer: ImageTokenizer, images: torch.Tensor) -> torch.Tensor:
    assert isinstance(tokenizer.bottleneck, GumbelBottleneck)
    with torch.no_grad():
        return tokenizer.bottleneck.logits(tokenizer.features(images))


def with_codes(
    estimator: Relaxed | Hard, codes: torch.Tensor, temperature: float = 1.0
) -> GumbelBottleneck:
    """A bottleneck with these codes."""
    spec = Gumbel(*codes.shape, temperature=Constant(temperature), estimator=estimator)
    bottleneck = spec.build()
    with torch.no_grad():
        bottleneck.codebook.copy_(codes)
    return bottleneck


def mixtures(logits: torch.Tensor, temperature: float, keys=KEYS) -> torch.Tensor:
    """The weights [b, k, h, w] that a relaxed sample gives to codes."""
    bottleneck = with_codes(Relaxed(), torch.eye(logits.shape[-1]), temperature)
    return bottleneck.sample(logits, generators(keys)).detach()


def test_the_divergence_is_that_of_the_definition():
    """KL(q || uniform) of an image is the sum over its sites of sum_k q_k log(q_k K)."""
    bottleneck, h = made(SPEC), contract.features(SPEC).requires_grad_()
    bottleneck.step_begin(20)
    kl = bottleneck(h, generators(KEYS)).rates["kl"]
    codes, x = bottleneck.codebook.double(), h.double().movedim(1, -1)
    # q ~ exp(-|x - e|^2 / 2): the likeliest code is the nearest.
    q = (-(x[..., None, :] - codes).square().sum(-1) / 2).softmax(-1)
    expected = 0.05 * (q * (q * 16).log()).sum((1, 2, 3)).float()
    assert expected.min() > 0.05
    torch.testing.assert_close(kl, expected, rtol=1e-5, atol=0)
    leaves = (h, bottleneck.codebook)
    for mine, other in zip(*(torch.autograd.grad(v.sum(), leaves) for v in (kl, expected)),
                           strict=True):  # fmt: skip
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_likeliest_code_is_the_nearest():
    bottleneck, h = made(SPEC), contract.features(SPEC, count=64)
    points = h.movedim(1, -1).flatten(0, 2)
    expected = torch.cdist(points, bottleneck.codebook).argmin(1)
    assert len(expected.unique()) > 8
    assert torch.equal(bottleneck.pack(h).flatten().long(), expected)
    assert torch.equal(bottleneck.logits(h).argmax(-1).flatten(), expected)


@pytest.mark.parametrize("count", [1, 4, 16])
def test_the_divergence_of_an_image_knows_no_other(count):
    bottleneck, h = made(SPEC), contract.features(SPEC, count=1)
    bottleneck.step_begin(20)
    alone = bottleneck(h, generators([0])).rates["kl"]
    many = bottleneck(h.expand(count, -1, -1, -1), generators(range(count))).rates["kl"]
    assert alone > 0.1
    torch.testing.assert_close(many, alone.expand(count))


def test_the_divergence_goes_from_0_to_the_logarithm_of_the_codes():
    sure = 1e4 * torch.nn.functional.one_hot(torch.arange(6), 50).float().reshape(1, 2, 3, 50)
    logits = torch.cat([torch.zeros_like(sure), sure]).requires_grad_()
    divergence = to_uniform(logits)
    expected = torch.tensor([0.0, 6 * math.log(50)])
    torch.testing.assert_close(divergence, expected, atol=1e-5, rtol=0)
    divergence.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_beta_is_the_published_one():
    """Of images of 256 pixels and 32x32 sites, beta / 192 times a site's divergence (Ramesh et al.
    2021, appendix A.2).
    """
    spec = Gumbel(8, 4, kl_weight=Cosine(0.0, 6.6, 5))
    tokenizer = fresh(spec, (4, 4, 4, 4), 256, groups=1)
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        losses = Reconstruction(tokenizer, {}, AdamW())({"image": image, "key": [0]}, 5)
    q = logits_of(tokenizer, image).softmax(-1)
    per_site = (q * (8 * q).log()).sum(-1)
    assert per_site.shape == (1, 32, 32) and per_site.mean() > 0.01
    torch.testing.assert_close(losses["kl"], 6.6 / 192 * per_site.mean(), rtol=1e-4, atol=0)


def test_a_relaxed_sample_is_the_papers():
    """Jang et al. 2017, eq. 2."""
    bottleneck, h = made(SPEC), contract.features(SPEC)
    bottleneck.temperature = 0.3
    logits = bottleneck.logits(h).detach()
    noisy = (logits + gumbel_noise(logits, generators(KEYS))).double()
    y = (noisy / 0.3).exp()
    y = y / y.sum(-1, keepdim=True)
    expected = torch.einsum("bhwk,kc->bchw", y, bottleneck.codebook.double())
    torch.testing.assert_close(bottleneck(h, generators(KEYS)).z, expected.float())


def test_a_hard_sample_is_one_code():
    """The one with the largest noisy logit, which often is not the likeliest."""
    bottleneck, h = made(SPECS["hard"]), contract.features(SPEC)
    latent = bottleneck(h, generators(KEYS))
    points, codes = latent.z.movedim(1, -1).flatten(0, 2), bottleneck.codebook
    apart = (points[:, None] - codes).abs().amax(-1)
    assert apart.amin(1).max() < 1e-5 and (apart < 1e-3).sum() == len(apart)
    logits = bottleneck.logits(h)
    drawn = (logits + gumbel_noise(logits, generators(KEYS))).argmax(-1)
    assert torch.equal(apart.argmin(1), drawn.flatten())
    assert latent.ids is not None and 0.02 < (drawn != latent.ids).float().mean() < 0.9


@pytest.mark.parametrize("rate", [0, 1], ids=["decoder", "divergence"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_gradients_reach_the_encoder_and_the_codes(spec, rate):
    """From what the decoder reads, and from the divergence."""
    bottleneck = made(spec)
    bottleneck.step_begin(20)
    h = contract.features(spec).requires_grad_()
    latent = bottleneck(h, generators(KEYS))
    (latent.rates["kl"].sum() if rate else (latent.z * torch.randn_like(h)).sum()).backward()
    assert h.grad is not None and bottleneck.codebook.grad is not None
    assert (h.grad.abs().amax(1) > 0).all()  # of every site
    assert (bottleneck.codebook.grad.abs().amax(1) > 0).all()  # of every code


def test_the_hard_estimators_gradient_is_the_relaxed_ones():
    """At its features; codes have one each, of what was decoded."""
    weight, grads = torch.randn(8, 4, 4, 4), []
    for spec in SPECS.values():
        bottleneck = made(spec)
        h = contract.features(spec).requires_grad_()
        (bottleneck(h, generators(KEYS)).z * weight).sum().backward()
        grads.append((h.grad, bottleneck.codebook.grad))
    (relaxed, codes), (hard, other_codes) = grads
    torch.testing.assert_close(relaxed, hard)
    assert not torch.allclose(codes, other_codes, rtol=0.1)


def test_samples_become_single_codes_as_the_temperature_falls():
    logits = torch.randn(8, 4, 4, 64, generator=torch.Generator().manual_seed(0))
    largest = [mixtures(logits, t).amax(1).mean().item() for t in (1.0, 0.5, 0.25, 1 / 16)]
    assert largest == sorted(largest)
    assert largest[0] < 0.4 and largest[-1] > 0.9


@pytest.mark.parametrize("keys", [range(10), None], ids=["keys", "ambient"])
def test_codes_are_drawn_as_likely_as_they_are(keys):
    q = torch.tensor([0.1, 0.2, 0.7])
    bottleneck = with_codes(Hard(), torch.eye(3))
    torch.manual_seed(0)
    logits = (q.log() + 3).expand(10, 64, 64, 3)
    drawn = bottleneck.sample(logits, None if keys is None else generators(keys))
    # 40960 draws: five standard deviations are 0.012.
    torch.testing.assert_close(drawn.mean((0, 2, 3)), q, atol=0.012, rtol=0)


def test_the_noise_is_gumbels():
    """Its mean is Euler's constant, its variance pi^2 / 6, and it is always finite."""
    noise = gumbel_noise(torch.empty(4, 64, 64, 64), generators(range(4)))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.01)


def test_a_samples_noise_does_not_know_the_batch():
    logits = torch.randn(8, 4, 4, 16, generator=torch.Generator().manual_seed(0))
    together = mixtures(logits, 0.5)
    order = [5, 2, 7]
    torch.testing.assert_close(mixtures(logits[order], 0.5, order), together[order])
    assert not torch.allclose(mixtures(logits, 0.5, [k + 1 for k in KEYS]), together, atol=0.1)


def test_noise_on_another_device_follows_the_samples_key_alone():
    """And what the sample's own generator has drawn before, so that no two draws are the same."""
    device = torch.device("cpu")
    drawn = [torch.rand(9, generator=reseeded(device, own)) for own in generators([5, 2, 5])]
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    (own,) = generators([5])
    again = [torch.rand(9, generator=reseeded(device, own)) for _ in range(2)]
    assert torch.equal(again[0], drawn[0]) and not torch.equal(again[1], drawn[0])


@pytest.mark.parametrize("widths", [(8, 16), (32, 64, 128), (64, 128, 256, 256)])
@pytest.mark.parametrize("channels", [4, 128])
def test_logits_begin_neither_flat_nor_sure(widths, channels):
    tokenizer = fresh(Gumbel(1024, channels), widths, 32, groups=8)
    logits = logits_of(tokenizer, Scenes(size=32).build().batch([0, 1])["image"])
    assert 0.5 < logits.std(-1).mean() < 2.5
    assert isinstance(tokenizer.bottleneck, GumbelBottleneck)
    norms = tokenizer.bottleneck.codebook.norm(dim=1)
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))


def test_schedules_are_followed_through_a_resume(tmp_path):
    spec = tiny.BOTTLENECKS["dvae"]
    assert isinstance(spec, Gumbel)
    run = tiny.run(tmp_path, steps=3, log_every=1)
    tiny.train("dvae", run)
    (objective,) = tiny.train("dvae", replace(run, steps=6, resume=True))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    for name, schedule in (("temperature", spec.temperature), ("kl_weight", spec.kl_weight)):
        seen = [line[name] for line in lines]
        assert seen == pytest.approx([schedule.at(step) for step in range(6)], rel=1e-6)
        assert seen[0] != seen[2] != seen[3]
    assert isinstance(objective, Reconstruction)
    bottleneck = objective.tokenizer.bottleneck
    assert isinstance(bottleneck, GumbelBottleneck) and bottleneck.temperature == 1 / 16


def gap(last: float, out) -> float:
    """By how many dB fresh pictures are better decoded from relaxed samples than from the nearest
    codes, after a training in which the temperature fell from 1 to `last`.
    """
    spec = Gumbel(64, 16, temperature=Cosine(1.0, last, 90), kl_weight=Cosine(0.0, 0.1, 100))
    tokenizer = fresh(spec, (8, 16), 16, groups=4)
    adam = AdamW(3e-3, warmup=20, schedule="cosine")
    run = tiny.run(out, steps=300, batch_size=32, ema=0.98, save_every=300)
    rows = tiny.Repeating({"image": tiny.images(4096)}, 32)
    fit([Reconstruction(tokenizer, {"pixel": (1.0, L2().build())}, adam)], rows, run)
    image = tiny.images(512, seed=1)
    with torch.no_grad():
        relaxed = tokenizer.train().encode(image, generators(range(512))).z
        by_relaxed = psnr(tokenizer.decode(relaxed), image).mean()
        by_codes = psnr(tokenizer.eval().reconstruct(image), image).mean()
    assert by_codes > 17
    return (by_relaxed - by_codes).item()


@pytest.mark.slow
def test_what_was_trained_relaxed_is_decoded_from_single_codes(tmp_path):
    """If the temperature has fallen; held at 1, it is not."""
    assert abs(gap(1 / 16, tmp_path / "annealed")) < 0.5
    assert gap(1.0, tmp_path / "held") > 0.8


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"codes": 1}, "codes is 1"),
        ({"channels": 0}, "channels is 0"),
        ({"temperature": Constant(0.0)}, "temperature reaches 0"),
        ({"temperature": Cosine(1.0, -0.1, 5)}, "temperature reaches -0.1"),
        ({"kl_weight": Cosine(-1.0, 1.0, 5)}, "kl_weight reaches -1"),
    ],
)
def test_impossible_numbers_are_refused(changes, field):
    with pytest.raises(ValueError, match=rf"bottleneck\.{field}"):
        Gumbel(**changes)
