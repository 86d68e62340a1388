"""Bits: their divergences, what normalises the machine, and what that is worth."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.distributions import Bernoulli as Bits
from torch.distributions import kl_divergence

import contract
import drawing
from calotype.tokenizers.bottlenecks import RBM, Bernoulli, Factorised
from calotype.tokenizers.bottlenecks.bernoulli import BernoulliBottleneck, RBMPrior, values
from calotype.tokenizers.bottlenecks.gumbel import Hard
from calotype.training.noise import generators
from calotype.training.schedules import Constant, Cosine

SPEC = Bernoulli(5, temperature=Cosine(1.0, 0.1, 3))
SPECS = {"factorised": SPEC, "rbm, hard": replace(SPEC, prior=RBM(3), estimator=Hard())}


@pytest.mark.parametrize("promise", drawing.PROMISES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_keeps_the_contract(spec, promise, tmp_path):
    promise(spec, tmp_path)


def made(prior: Factorised | RBM) -> BernoulliBottleneck:
    """With a prior that is not its first."""
    torch.manual_seed(0)
    bottleneck = replace(SPEC, prior=prior).build()
    with torch.no_grad():
        for parameter in bottleneck.prior.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return bottleneck


def machine() -> RBMPrior:
    prior = made(RBM(3)).prior
    assert isinstance(prior, RBMPrior)
    return prior


def listed(prior: RBMPrior) -> torch.Tensor:
    """Probabilities of all visible values, from the energies of all values of all bits."""
    weight = torch.zeros(2**5, dtype=torch.float64)
    a, c, w = (p.double() for p in (prior.visible, prior.hidden, prior.weight))
    for z in product((0.0, 1.0), repeat=5):
        for v in product((0.0, 1.0), repeat=3):
            seen, unseen = (torch.tensor(each, dtype=torch.float64) for each in (z, v))
            index = sum(int(bit) << i for i, bit in enumerate(z))
            weight[index] += (seen @ a + unseen @ c + seen @ w @ unseen).exp()
    return weight / weight.sum()


def test_the_machine_is_normalised_over_all_its_bits():
    prior = machine()
    torch.testing.assert_close(prior.log_probabilities().exp(), listed(prior).float())


@pytest.mark.parametrize("prior", [Factorised(), RBM(3)], ids=["factorised", "rbm"])
def test_the_divergence_is_the_sum_over_all_values(prior):
    bottleneck, h = made(prior), contract.features(SPEC)
    if isinstance(bottleneck.prior, RBMPrior):
        log_p = listed(bottleneck.prior).log().float()
    else:
        log_p = Bits(logits=bottleneck.prior.logits).log_prob(values(5).float()).sum(1)
    log_q = Bits(logits=h.movedim(1, -1)[..., None, :]).log_prob(values(5).float()).sum(-1)
    expected = (log_q.exp() * (log_q - log_p)).sum((1, 2, 3))
    divergence = bottleneck(h).divergence
    torch.testing.assert_close(divergence, expected)
    if isinstance(prior, Factorised):
        own = bottleneck.prior.logits[:, None, None].expand_as(h)
        each = kl_divergence(Bits(logits=h), Bits(logits=own))
        torch.testing.assert_close(divergence, each.sum((1, 2, 3)))


def test_the_machine_learns_by_the_difference_of_two_means():
    """d E_q ln p / d a is E_q z - E_p z (Hinton 2002, eq. 5), here without any sampling."""
    prior, logits = machine(), torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(-prior.cross_entropy(logits).mean(), prior.visible)
    expected = logits.sigmoid().mean(0) - listed(prior).float() @ values(5).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prior", [Factorised(), RBM(3)], ids=["factorised", "rbm"])
def test_draws_of_the_prior_are_the_priors(prior):
    bottleneck = made(prior)
    z = bottleneck.sample_prior(10, 10, generators(range(200)))
    ids = (z.long() << torch.arange(5)[:, None, None]).sum(1).flatten()
    frequency = torch.bincount(ids, minlength=32) / len(ids)
    if isinstance(bottleneck.prior, RBMPrior):
        expected = listed(bottleneck.prior).float()
    else:
        bits = Bits(logits=bottleneck.prior.logits)
        expected = bits.log_prob(values(5).float()).sum(1).exp()
    torch.testing.assert_close(frequency, expected, atol=0.01, rtol=0)


def test_bits_are_drawn_by_their_logits():
    bottleneck, h = made(Factorised()), contract.features(SPEC, count=1)
    z = bottleneck.eval()(h.expand(4000, -1, -1, -1), generators(range(4000))).z
    assert set(z.unique().tolist()) == {0, 1}
    torch.testing.assert_close(z.mean(0), h[0].sigmoid(), atol=0.04, rtol=0)


def test_relaxed_bits_are_binary_concrete_and_hard_ones_bits():
    h = contract.features(SPEC)
    bottleneck = replace(SPEC, temperature=Constant(0.3)).build()
    soft = bottleneck(h, generators(contract.KEYS))
    # In float32 what is near 1 may be 1.
    assert soft.ids is not None and 0 < soft.z.min() < 0.1 < 0.9 < soft.z.max() <= 1
    assert ((soft.z > 0.1) & (soft.z < 0.9)).any()
    assert torch.equal((soft.z > 0.5).long(), soft.ids)
    leaf, other = (h.clone().requires_grad_() for _ in range(2))
    hard = replace(SPEC, temperature=Constant(0.3), estimator=Hard()).build()
    z = hard(leaf, generators(contract.KEYS)).z
    torch.testing.assert_close(z.detach(), soft.ids.float())
    z.sum().backward()
    bottleneck(other, generators(contract.KEYS)).z.sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_a_machine_of_too_many_bits_is_refused():
    with pytest.raises(ValueError, match=r"bottleneck.channels is 17, and .*choose 16 or"):
        Bernoulli(17, RBM())
    assert Bernoulli(17).build().z_channels == 17
