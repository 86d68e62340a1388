"""Counts: their divergence, that they are counts, their relaxation, and few labels."""

import pytest
import torch
from torch.distributions import Poisson as Counted

import drawing
from calotype.tokenizers.bottlenecks import Poisson
from calotype.tokenizers.bottlenecks.poisson import PoissonBottleneck
from calotype.training.noise import generators
from calotype.training.schedules import Constant, Cosine

SPEC = Poisson(6, temperature=Cosine(1.0, 0.1, 3))
MANY = 20_000


@pytest.mark.parametrize("promise", drawing.PROMISES)
def test_keeps_the_contract(promise, tmp_path):
    promise(SPEC, tmp_path)


def made(temperature: float = 1.0) -> tuple[PoissonBottleneck, torch.Tensor]:
    """One whose rates are 0.05 to 4, and what many samples of one picture are drawn by."""
    bottleneck = Poisson(4, temperature=Constant(temperature)).build()
    with torch.no_grad():
        bottleneck.log_rate.copy_(torch.tensor([0.2, 0.5, 1.0, 2.0]).log())
    gain = torch.tensor([[0.25, 0.7, 3.0, 2.0], [1.0, 1.5, 0.2, 0.5]]).T
    return bottleneck, gain.log()[None, :, None].expand(MANY, 4, 1, 2)


def test_the_divergence_is_the_mean_of_its_draws():
    bottleneck, h = made()
    with torch.no_grad():
        latent = bottleneck.eval()(h, generators(range(MANY)))
    rates, prior = bottleneck.rates(h[:1]), bottleneck.log_rate.exp()[:, None, None]
    ratio = Counted(rates).log_prob(latent.z) - Counted(prior).log_prob(latent.z)
    drawn = ratio.sum((1, 2, 3)).mean()
    assert latent.divergence is not None
    torch.testing.assert_close(latent.divergence[0], drawn, rtol=0.01, atol=0)
    closed = torch.distributions.kl_divergence(Counted(rates), Counted(prior)).sum()
    torch.testing.assert_close(latent.divergence[0], closed)


def test_what_is_drawn_are_counts():
    bottleneck, h = made()
    with torch.no_grad():
        latent = bottleneck.eval()(h, generators(range(MANY)))
    assert latent.ids is not None and torch.equal(latent.ids.float(), latent.z)
    for k in range(4):
        probability = Counted(bottleneck.rates(h[:1])[0]).log_prob(torch.tensor(float(k))).exp()
        torch.testing.assert_close((latent.z == k).float().mean(0), probability, atol=0.015, rtol=0)


def test_relaxed_counts_become_counts():
    bottleneck, h = made()
    gaps = []
    for temperature in (1.0, 0.3, 0.05, 0.001):
        bottleneck.temperature = temperature
        soft = bottleneck.train()(h[:500], generators(range(500)))
        assert soft.ids is not None
        gaps.append((soft.z - soft.ids).abs().mean().item())
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.01 < 0.1 < gaps[0]


def test_the_gradient_of_the_mean_count_is_the_rates():
    """d E z / d ln rate is the rate; of a relaxed count nearly so."""
    bottleneck, h = made(0.05)
    leaf = h[:1].clone().requires_grad_()
    z = bottleneck.train()(leaf.expand(MANY, -1, -1, -1), generators(range(MANY))).z
    (found,) = torch.autograd.grad(z.mean(0).sum(), leaf)
    torch.testing.assert_close(found, bottleneck.rates(leaf).detach(), rtol=0.06, atol=0.01)


def test_what_asks_for_more_than_the_largest_rate_pays_for_it():
    bottleneck, _ = made()
    h = torch.full((1, 4, 1, 1), 5.0, requires_grad=True)
    assert bottleneck.rates(h).max() <= SPEC.most / 3 + 1e-4
    (found,) = torch.autograd.grad(bottleneck.divergence(h).sum(), h)
    assert (found > 0).all()


def test_packed_counts_are_the_nearest_to_the_rates():
    bottleneck, h = made()
    packed = bottleneck.pack(h[:1])
    assert packed.dtype == torch.uint8
    assert (packed - bottleneck.mode(h[:1])).abs().max() <= 0.5


@pytest.mark.parametrize(("change", "message"), [
    ({"channels": 0}, "bottleneck.channels is 0"),
    ({"most": 300}, "bottleneck.most is 300: choose 3 to 255"),
    ({"temperature": Constant(0.0)}, "bottleneck.temperature reaches 0.0"),
    ({"kl_weight": -1.0}, "bottleneck.kl_weight is -1.0"),
])  # fmt: skip
def test_refuses_what_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Poisson(**change)
