"""What a Gaussian latent pays for its divergence: the whole, a distance, or the parts."""

from itertools import combinations

import pytest
import torch
from torch.distributions import Categorical as Choice
from torch.distributions import Independent, MixtureSameFamily, Normal

from calotype.tokenizers import Gaussian
from calotype.tokenizers.bottlenecks import BottleneckSpec
from calotype.tokenizers.bottlenecks.divergences import (
    Capacity,
    Decomposed,
    Drawn,
    Whole,
    log_densities,
)
from calotype.training.description import describe, restore
from calotype.training.schedules import Linear

SHAPE = 3, 1, 1


def moments(count: int, seed: int = 0) -> torch.Tensor:
    """Means and log-variances, as the bottleneck reads them."""
    return torch.randn(count, 6, 1, 1, generator=torch.Generator().manual_seed(seed))


def drawn(h: torch.Tensor, seed: int = 1) -> Drawn:
    mean, log_variance = h.chunk(2, 1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    return Drawn(mean, log_variance, mean + (log_variance / 2).exp() * noise, torch.empty(len(h)))


def test_the_closed_form_is_what_draws_say_and_so_is_its_gradient():
    """Of two million draws; the mean of ln q - ln p over them is within 1 % of it, and the gradient
    through the draws within 1 % of its own length.
    """
    h = moments(2).requires_grad_()
    closed = Gaussian(3, 1.0).build()(h).divergence
    (expected,) = torch.autograd.grad(closed.sum(), h)
    mean, log_variance = h.chunk(2, 1)
    noise = torch.randn(1_000_000, *mean.shape, generator=torch.Generator().manual_seed(0))
    z = mean + (log_variance / 2).exp() * noise
    inside = Normal(mean, (log_variance / 2).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    estimate = inside.mean(0).sum((1, 2, 3))
    torch.testing.assert_close(estimate, closed, rtol=0.01, atol=0)
    (found,) = torch.autograd.grad(estimate.sum(), h)
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_the_gradient_is_the_closed_forms():
    """mean by mean, (variance - 1) / 2 by log-variance."""
    h = moments(4).requires_grad_()
    (found,) = torch.autograd.grad(Gaussian(3, 0.5).build()(h).rates["kl"].sum(), h)
    mean, log_variance = h.detach().chunk(2, 1)
    expected = 0.5 * torch.cat([mean, (log_variance.exp() - 1) / 2], 1)
    torch.testing.assert_close(found, expected)


def test_each_image_is_held_to_the_capacity_of_the_step():
    spec = Gaussian(3, 2.0, divergence=Capacity(Linear(0.0, 4.0, 100)))
    bottleneck, h = spec.build(), 1.5 * moments(5)
    for step, capacity in ((0, 0.0), (25, 1.0), (100, 4.0), (1000, 4.0)):
        bottleneck.step_begin(step)
        latent = bottleneck(h)
        expected = 2 * (latent.divergence - capacity).abs()
        torch.testing.assert_close(latent.rates["kl"], expected)
        assert bottleneck.metrics["capacity"] == capacity
    spread = latent.divergence - 4
    assert (spread > 0).any() and (spread < 0).any(), "the mean's distance would be another"


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 6.0, 2.0)])
def test_the_parts_sum_to_what_the_draw_says(weights):
    """With all weights 1 whatever was estimated of q(z) falls out."""
    alpha, beta, gamma = weights
    spec, batch = Decomposed(100, alpha, beta, gamma), drawn(moments(8))
    paid, (own, joint, marginals, prior) = spec.paid(batch, 0), log_densities(batch, 100)
    assert paid.nats.shape == (8,)
    parts = alpha * (own - joint) + beta * (joint - marginals) + gamma * (marginals - prior)
    torch.testing.assert_close(paid.nats, parts)
    if weights == (1.0, 1.0, 1.0):
        torch.testing.assert_close(paid.nats, own - prior)


def mixture(h: torch.Tensor) -> MixtureSameFamily:
    """q(z) of a whole data set."""
    mean, log_variance = h.flatten(1).chunk(2, 1)
    each = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    return MixtureSameFamily(Choice(torch.ones(len(h))), each)


def test_a_batch_that_is_the_data_set_knows_its_density():
    h = moments(12)
    batch = drawn(h)
    found = log_densities(batch, 12)
    torch.testing.assert_close(found.joint, mixture(h).log_prob(batch.z.flatten(1)))
    each = sum(
        MixtureSameFamily(
            Choice(torch.ones(12)),
            Normal(batch.mean[:, j, 0, 0], (batch.log_variance[:, j, 0, 0] / 2).exp()),
        ).log_prob(batch.z[:, j, 0, 0])
        for j in range(3)
    )
    torch.testing.assert_close(found.marginals, each)


def test_the_estimate_of_the_density_is_unbiased():
    """Over all batches of four that an image of a set of seven can be in."""
    h = moments(7)
    whole = drawn(h)
    own = [part[:1] for part in whole]
    estimates = []
    for others in combinations(range(1, 7), 3):
        rows = [0, *others]
        batch = Drawn(*[part[rows] for part in whole])
        estimates.append(log_densities(batch, 7).joint[0].exp())
    expected = mixture(h).log_prob(own[2].flatten(1)).exp()
    torch.testing.assert_close(torch.stack(estimates).mean()[None], expected)
    assert torch.stack(estimates).std() > 0.01 * expected


def test_dimensions_that_say_nothing_of_one_another_have_no_total_correlation():
    """Sharp posteriors at all corners of a cube, and at two opposite ones alone."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    for mean, expected in ((corners, 0.0), (corners[[0, 7]].repeat(4, 1), 2 * 0.6931)):
        h = torch.cat([mean, torch.full_like(mean, -6.0)], 1)[..., None, None]
        metrics = Decomposed(8).paid(drawn(h), 0).metrics
        assert abs(metrics["total_correlation"] - expected) < 1e-3


def test_a_density_of_a_batch_beyond_the_data_set_is_refused():
    for count in (1, 9):
        with pytest.raises(ValueError, match=r"is 8, and a step has \d images: choose"):
            log_densities(drawn(moments(count)), 8)


def test_previews_ask_no_other_rank():
    """Bug: the main process draws them alone, and would wait for the others for ever."""
    bottleneck = Gaussian(3, 1.0, divergence=Decomposed(8)).build().eval()
    latent = bottleneck(moments(1))
    assert not latent.rates and latent.divergence is not None


def test_recipes_of_before_are_understood():
    """Without the field the divergence is paid for as it was."""
    told = describe(Gaussian(kl_weight=1e-3))
    del told["divergence"]
    assert restore(BottleneckSpec, told) == Gaussian(kl_weight=1e-3, divergence=Whole())
    for divergence in (Capacity(), Decomposed(768)):
        spec = Gaussian(divergence=divergence)
        assert restore(BottleneckSpec, describe(spec)) == spec
