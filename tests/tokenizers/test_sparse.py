"""Sparse latents: what responds, what is paid, who is dead."""

import pytest
import torch

import tiny
from calotype.tokenizers import ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import Sparse
from calotype.tokenizers.bottlenecks.sparse import PATIENCE
from calotype.tokenizers.bottlenecks.sparsity import KLRate, L1Activity, TopK
from calotype.tokenizers.terms import L2
from calotype.tokenizers.vector import Dense
from calotype.training import fit

H = torch.randn(6, 32, 4, 4, generator=torch.Generator().manual_seed(0))
EVERY = [L1Activity(), KLRate(), TopK(5)]


@pytest.mark.parametrize("sparsity", EVERY, ids=lambda each: type(each).__name__)
def test_every_image_pays_for_itself(sparsity):
    bottleneck = Sparse(32, sparsity).build()
    bottleneck(H)
    bottleneck.step_end()
    once, thrice = bottleneck(H), bottleneck(H.repeat(3, 1, 1, 1))
    assert once.penalties.keys() == thrice.penalties.keys()
    for name, paid in once.penalties.items():
        assert paid.shape == (6,)
        torch.testing.assert_close(thrice.penalties[name], paid.repeat(3))
    assert torch.equal(bottleneck.unpack(bottleneck.pack(H)), once.z)


def test_exactly_k_of_a_sites_units_are_not_zero_and_they_are_the_largest():
    z = Sparse(32, TopK(5)).build()(H).z
    assert ((z != 0).sum(1) == 5).all()
    kept = torch.where(z != 0, H, torch.inf).amin(1)
    left = torch.where(z != 0, -torch.inf, H).amax(1)
    assert (kept > left).all() and torch.equal(z[z != 0], H[z != 0])


def test_the_rates_gradient_is_that_of_the_divergence_at_the_running_mean():
    """Where the running mean is the batch's: Ng's penalty, differentiated by hand."""
    bottleneck, h = Sparse(32, KLRate(2.0, 0.1)).build(), H.clone().requires_grad_()
    mean = h.sigmoid().mean((0, 2, 3))
    p, q = torch.tensor(0.1), mean
    ng = 2.0 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    (expected,) = torch.autograd.grad(ng, h)
    bottleneck.mean.copy_(mean.detach())
    paid = bottleneck(h).penalties["sparsity"].mean()
    torch.testing.assert_close(paid, ng)
    torch.testing.assert_close(torch.autograd.grad(paid, h)[0], expected)


def test_nothing_is_paid_for_a_rate_before_something_is_known():
    bottleneck, h = Sparse(32, KLRate()).build(), H.clone().requires_grad_()
    bottleneck(h).penalties["sparsity"].sum().backward()
    assert h.grad is not None and h.grad.abs().max() < 1e-8


def test_running_means_come_to_the_datas():
    bottleneck = Sparse(32, KLRate()).build()
    for _ in range(100):
        for part in H.split(3):  # two micro-batches
            bottleneck(part)
        bottleneck.step_end()
    torch.testing.assert_close(bottleneck.mean, H.sigmoid().mean((0, 2, 3)), atol=1e-4, rtol=0)


def test_units_that_respond_to_nothing_are_told():
    bottleneck, h = Sparse(32, L1Activity()).build(), H.clone()
    h[:, :8] = -1
    for _ in range(PATIENCE // 6):
        bottleneck(h)
        bottleneck.step_end()
    bottleneck.step_begin(0)
    assert bottleneck.warning() is None
    bottleneck(h)
    bottleneck.step_end()
    bottleneck.step_begin(0)
    assert bottleneck.metrics["dead_units"] == 0.25
    assert bottleneck.dead.tolist() == [True] * 8 + [False] * 24
    said = bottleneck.warning()
    assert said is not None and "25% of 32 units are dead" in said and "sparsity.weight" in said
    bottleneck(H)  # they respond again
    bottleneck.step_end()
    assert not bottleneck.dead.any()


def test_what_is_skipped_or_looked_at_is_not_remembered():
    bottleneck = Sparse(32, KLRate()).build()
    bottleneck(H)
    bottleneck.step_skipped()
    bottleneck.eval()(H)
    for each in (bottleneck.seen, bottleneck.sums, bottleneck.responses, bottleneck.silent):
        assert not each.any()


@pytest.mark.parametrize("sparsity", EVERY, ids=lambda each: type(each).__name__)
def test_it_trains_is_saved_and_goes_on_exactly(sparsity, tmp_path):
    def train(out: str, **changes) -> Reconstruction:
        torch.manual_seed(0)
        spec = Sparse(8, sparsity)
        made = ImageTokenizer(tiny.BACKBONE.autoencoder(spec, tiny.SIZE), spec.build())
        objective = Reconstruction(made, {"pixel": (1.0, L2().build())}, tiny.adam(3e-3))
        run = tiny.run(tmp_path / out, ema=None, **changes)
        fit([objective], tiny.Repeating({"image": tiny.images(16)}, run.batch_size), run)
        return objective

    whole = train("whole", steps=4)
    train("parts", steps=2)
    parts = train("parts", steps=4, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    accumulated = train("accumulated", steps=4, batch_size=2, accumulate=2)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(accumulated.state_dict()[name], value, atol=1e-5, rtol=0)
    whole.tokenizer.save(tmp_path / "model")
    loaded, image = ImageTokenizer.load(tmp_path / "model"), tiny.images(4)
    torch.testing.assert_close(loaded.reconstruct(image), whole.tokenizer.reconstruct(image))
    assert not whole.tokenizer.is_stock


def test_more_units_are_kept_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"units is 32, and there are 32 bottleneck\.channels"):
        Sparse(32, TopK(32))


def learnt(sparsity: L1Activity | KLRate, out, steps: int = 300) -> tuple[torch.Tensor, float]:
    """Responses of 128 units to digits of 64 pixels that were trained on, and the error that is
    left of these, as a part of their variance.
    """
    torch.manual_seed(0)
    spec, image = Sparse(128, sparsity), tiny.digits()
    made = ImageTokenizer(Dense(()).autoencoder(spec, 8, 1), spec.build())
    objective = Reconstruction(made, {"pixel": (1.0, L2().build())}, tiny.adam(3e-3))
    run = tiny.run(out, steps=steps, batch_size=64, ema=None, save_every=steps, log_every=steps)
    fit([objective], tiny.Repeating({"image": image}, 64), run)
    with torch.no_grad():
        z = made.latents(image).flatten(1)
        error = (made.reconstruct(image) - image).square().mean().item()
    return z, error / image.var().item()


def test_mean_activity_comes_to_its_target(tmp_path):
    """Over all units; and most single ones to two hundredths. Without the penalty they do not."""
    z, error = learnt(KLRate(5.0, 0.05), tmp_path / "held")
    free, _ = learnt(KLRate(0.0, 0.05), tmp_path / "free")
    assert abs(z.mean() - 0.05) < 0.01
    assert ((z.mean(0) - 0.05).abs() < 0.02).float().mean() > 0.9
    assert (free.mean() - 0.05).abs() > 0.1
    assert error < 0.5


def test_a_price_on_activity_leaves_most_units_at_zero(tmp_path):
    z, error = learnt(L1Activity(0.5), tmp_path / "held")
    free, _ = learnt(L1Activity(0.0), tmp_path / "free")
    assert (z == 0).float().mean() > 0.6
    assert (free == 0).float().mean() < 0.6
    assert error < 0.5
