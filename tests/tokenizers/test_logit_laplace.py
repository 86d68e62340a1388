"""The logit-Laplace likelihood: it is a density, the paper's, and what is real makes it largest."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.integrate import quad

import tiny
from calotype.recipes.tokenizer import PretrainedDecoder
from calotype.tokenizers import Critic, Reconstruction
from calotype.tokenizers.terms import L1, LogitLaplace
from calotype.tokenizers.terms.logit_laplace import LogitLaplaceTerm

EPSILON = 0.1
TERM = LogitLaplaceTerm(EPSILON)
SLOPE = (1 - 2 * EPSILON) / 2 / (EPSILON * (1 - EPSILON))
"""Of the logit where a picture is -1 or 1."""


def logit(x: float) -> float:
    return math.log(x / (1 - x))


def picture_of(mu: float) -> float:
    """The picture in [-1, 1] that the paper decodes: the inverse of its phi, of sigmoid(mu)."""
    return 2 * (1 / (1 + math.exp(-mu)) - EPSILON) / (1 - 2 * EPSILON) - 1


def nll(picture: float, log_b: float, x: float) -> float:
    """Of one number x in (0, 1), which may lie where no pixel is squeezed to."""
    real = torch.full((1, 3, 1, 1), 2 * (x - EPSILON) / (1 - 2 * EPSILON) - 1, dtype=torch.float64)
    fake = torch.cat([torch.full_like(real, picture), torch.full_like(real, log_b)], 1)
    return TERM(fake, real).item()


@pytest.mark.parametrize("mu", [-2.0, 0.0, 0.7])
@pytest.mark.parametrize("b", [0.05, 0.5, 1.0])
def test_the_density_integrates_to_1(mu, b):
    total = 0.0
    # Over y = logit(x), in which it has no poles: dx = x (1 - x) dy.
    for low, high in ((mu - 30 * b, mu), (mu, mu + 30 * b)):
        total += quad(lambda y: _density(y, mu, b), low, high, epsabs=1e-7)[0]
    assert total == pytest.approx(1, abs=1e-5)


def _density(y: float, mu: float, b: float) -> float:
    x = 1 / (1 + math.exp(-y))
    return math.exp(-nll(picture_of(mu), math.log(b), x)) * x * (1 - x)


def test_it_is_the_published_one():
    """-ln f of Ramesh et al. 2021, eq. 3, from mu and b, a mean over channels and pixels."""
    generator = torch.Generator().manual_seed(0)
    mu, log_b = torch.randn(2, 4, 3, 5, 7, generator=generator, dtype=torch.float64)
    mu.clamp_(-2, 2)  # what a picture in [-1, 1] can be
    real = torch.rand(4, 3, 5, 7, generator=generator, dtype=torch.float64) * 2 - 1
    picture = 2 * (mu.sigmoid() - EPSILON) / (1 - 2 * EPSILON) - 1
    x = (1 - 2 * EPSILON) * (real + 1) / 2 + EPSILON
    b = log_b.exp()
    f = 1 / (2 * b * x * (1 - x)) * (-((x / (1 - x)).log() - mu).abs() / b).exp()
    found = LogitLaplace().build()(torch.cat([picture, log_b], 1), real)
    torch.testing.assert_close(found, -f.log().mean((1, 2, 3)))
    assert found.shape == (4,)


def test_its_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    fake = 3 * torch.randn(2, 6, 2, 3, generator=generator, dtype=torch.float64)
    assert (fake[:, :3].abs() > 1).any() and (fake[:, :3].abs() < 1).any()
    real = torch.rand(2, 3, 2, 3, generator=generator, dtype=torch.float64) * 2 - 1
    assert torch.autograd.gradcheck(lambda f: TERM(f, real), fake.requires_grad_())


@pytest.mark.parametrize("log_b", [-3.0, 0.0, 1.0])
def test_the_likeliest_picture_is_the_real_one(log_b):
    real = torch.tensor([-1.0, -0.3, 0.0, 0.8, 1.0])[:, None, None, None].expand(5, 3, 1, 1)
    grid = torch.linspace(-1.5, 1.5, 301)
    losses = []
    for value in grid:
        picture = torch.full((5, 3, 1, 1), value.item())
        losses.append(TERM(torch.cat([picture, torch.full_like(picture, log_b)], 1), real))
    best = grid[torch.stack(losses).argmin(0)]
    torch.testing.assert_close(best, real[:, 0, 0, 0], atol=1e-6, rtol=0)


def test_the_likeliest_scale_is_the_error():
    """Of one pixel, b = |logit(x) - mu|."""
    picture, x, grid = 0.5, 0.2, torch.linspace(-2, 2, 401).tolist()
    best = min(grid, key=lambda log_b: nll(picture, log_b, x))
    mu = logit((1 - 2 * EPSILON) * (picture + 1) / 2 + EPSILON)
    assert best == pytest.approx(math.log(abs(logit(x) - mu)), abs=0.01)


def test_the_location_goes_on_along_its_tangents():
    edge = logit(1 - EPSILON)
    for picture, expected in ((1.0, edge), (1.5, edge + SLOPE / 2), (-3.0, -edge - 2 * SLOPE)):
        found = TERM.interval.location(torch.tensor(picture)).item()
        assert found == pytest.approx(expected, rel=1e-5)
    pictures = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(TERM.interval.location(pictures).sum(), pictures)
    beyond = pictures.detach().abs() >= 1
    torch.testing.assert_close(slopes[beyond], torch.full_like(slopes[beyond], SLOPE))
    assert slopes.min() == pytest.approx(2 * (1 - 2 * EPSILON), rel=1e-9)  # at 0


@pytest.mark.parametrize("far", [1.01, 5.0, 100.0])
def test_no_gradient_vanishes_far_out(far):
    picture = torch.tensor([far, -far])[:, None, None, None].repeat(1, 3, 1, 1).requires_grad_()
    real = torch.zeros(2, 3, 1, 1)
    TERM(torch.cat([picture, torch.zeros_like(real)], 1), real).sum().backward()
    expected = torch.tensor([1.0, -1.0])[:, None, None, None] * SLOPE / 3
    assert picture.grad is not None
    torch.testing.assert_close(picture.grad, expected.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 0.5, 1e-9, math.nan])
def test_margins_that_leave_no_interval_are_refused(epsilon):
    with pytest.raises(ValueError, match=r"pixel\.epsilon is .*: it lies in \[0\.001, 0\.5\)"):
        LogitLaplace(epsilon=epsilon)


def test_the_smallest_margin_is_accurate_in_float32():
    term, real = LogitLaplaceTerm(0.001), torch.tensor([-1.0, 1.0])[:, None, None, None]
    fake = torch.cat([-real.expand(-1, 3, -1, -1), torch.zeros(2, 3, 1, 1)], 1)
    expected = math.log(2 * 0.001 * 0.999) + 2 * logit(0.999)
    value = term(fake, real.expand(-1, 3, -1, -1))
    torch.testing.assert_close(value, torch.full((2,), expected), atol=1e-3, rtol=0)


def game(terms=None) -> tuple[Reconstruction, Critic]:
    """Two learners around a decoder of six maps."""
    torch.manual_seed(0)
    terms = terms or {"pixel": (1.0, LogitLaplace().build())}
    tokenizer = tiny.tokenizer(0, tiny.BOTTLENECK, maps=2)
    reconstruction = Reconstruction(tokenizer, terms, tiny.adam(1e-3), [tiny.images(2)])
    return reconstruction, Critic(tiny.adversary(), reconstruction, tiny.adam(1e-3))


def test_the_adaptive_weight_is_the_formulas_with_six_maps():
    """Esser et al. 2021, eq. 7, as it stands, over the whole last layer."""
    reconstruction, critic = game()
    batch = tiny.batch(4)
    torch.stack(list(reconstruction(batch, 0).values())).sum().backward()
    tokenizer = reconstruction.tokenizer
    mine = tokenizer.last_layer.weight.grad
    reconstruction.zero_grad()
    generators = [torch.Generator().manual_seed(k) for k in batch["key"]]
    latent = tokenizer.encode(batch["image"], generators)
    maps = tokenizer.decode_maps(latent.z)
    assert maps.shape[1] == 6 and torch.equal(maps[:, :3], tokenizer.decode(latent.z))
    likelihood = TERM(maps, batch["image"]).mean()
    fooling = -critic.discriminator(maps[:, :3]).mean()
    last = tokenizer.last_layer.weight
    of_likelihood, of_fooling = (
        torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (likelihood, fooling)
    )
    weight = 0.5 * of_likelihood.norm() / (of_fooling.norm() + 1e-4)
    torch.testing.assert_close(reconstruction.metrics["adversarial_weight"], weight, rtol=1e-5,
                               atol=0)  # fmt: skip
    assert mine is not None
    torch.testing.assert_close(mine, of_likelihood + weight * of_fooling, rtol=1e-4, atol=1e-7)


def test_others_read_the_picture_alone():
    """Another pixel term, the discriminator, PSNR, samples: of six maps they see three."""
    reconstruction, critic = game({"pixel": (1.0, L1().build())})
    batch = tiny.batch(2)
    losses = reconstruction(batch, 0)
    torch.stack(list(losses.values())).sum().backward()
    gradient = reconstruction.tokenizer.last_layer.weight.grad
    assert gradient is not None and not gradient[3:].any()
    assert all(row.any() for row in gradient[:3])
    assert reconstruction.fake.shape == (2, 3, 16, 16)
    torch.testing.assert_close(losses["pixel"], (reconstruction.fake - batch["image"]).abs().mean())
    assert critic(batch, 0).keys() == {"discriminator"}
    reconstruction.eval()
    preview = reconstruction.preview()
    assert preview is not None and preview.shape == (4, 3, 16, 16)


def test_a_decoder_of_three_maps_has_no_scale_to_give():
    recipe = tiny.tokenizer_recipe(Path("runs"))
    with pytest.raises(
        ValueError, match=r"reads 2 maps of each channel, and a pretrained decoder emits 1"
    ):
        replace(recipe, pixel=LogitLaplace(), model=PretrainedDecoder())
    built = replace(recipe, pixel=LogitLaplace())
    assert built.model.build(16, "RGB", built.pixel.maps).maps == 6


def test_a_least_scale_is_added_to_b():
    """And the likeliest scale of a flat, exact picture is that, not nothing."""
    fake, real = torch.rand(2, 6, 3, 3) * 2 - 1, torch.rand(2, 3, 3, 3) * 2 - 1
    raised = fake.clone()
    raised[:, 3:] = (fake[:, 3:].exp() + 0.2).log()
    expected = LogitLaplace().build()(raised, real)
    torch.testing.assert_close(LogitLaplace(least_scale=0.2).build()(fake, real), expected)
    exact = torch.cat([real, torch.full_like(real, -50.0)], dim=1)
    assert LogitLaplace().build()(exact, real).max() < -40
    assert LogitLaplace(least_scale=0.2).build()(exact, real).min() > -3
    with pytest.raises(ValueError, match=r"pixel\.least_scale is -1"):
        LogitLaplace(least_scale=-1.0)
