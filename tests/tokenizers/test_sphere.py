"""Spheres and circles: their distributions, and what closes."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import drawing
import tiny
from calotype.data.drawn.shapes import coverage
from calotype.tokenizers import ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import Circle, Sphere
from calotype.tokenizers.bottlenecks.sphere import Density
from calotype.tokenizers.terms.likelihoods import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW, Run, fit

SPECS = {
    "sphere": Sphere(2, concentration=1.0), "circle": Circle(3, kl_weight=0.5, concentration=1.0),
    "far": Sphere(1, dimensions=8),
}  # fmt: skip
"""Of several spheres ones that are little concentrated: else hardly a draw has the weight of those
that are far from the mean."""
KAPPAS = torch.tensor([1e-3, 0.1, 1.0, 5.0, 30.0, 300.0, 5000.0])


@pytest.mark.parametrize("promise", drawing.PROMISES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_keeps_the_contract(spec, promise, tmp_path):
    promise(spec, tmp_path)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_latents_are_points_of_spheres(spec):
    made = drawing.bottleneck(spec)
    h = drawing.features(spec)
    drawn = made(h, drawing.generators()).z
    for z in (drawn, made.mode(h), made.sample_prior(4, 4, drawing.generators())):
        radii = z.unflatten(1, (spec.count, spec.across)).norm(dim=2)
        torch.testing.assert_close(radii, torch.ones_like(radii))


def test_the_divergence_on_a_circle_is_von_mises():
    """k I1(k) / I0(k) - ln I0(k)."""
    k = KAPPAS.double()
    bessel = torch.special.i1e(k) / torch.special.i0e(k)
    expected = k * bessel - torch.special.i0e(k).log() - k
    found = Density(KAPPAS.log(), 2).divergence()
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=2e-5)


def test_the_divergence_on_a_sphere_is_fishers():
    """k coth(k) - 1 + ln(k / sinh(k))."""
    k = KAPPAS.double()
    log_sinh = k + torch.log1p(-(-2 * k).exp()) - math.log(2)
    expected = k / k.tanh() - 1 + k.log() - log_sinh
    found = Density(KAPPAS.log(), 3).divergence()
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("across", [2, 3, 8])
def test_draws_and_their_gradients_have_the_distributions_mean(across):
    """E cos is A(k), the ratio of two Bessel functions, and d E cos / d ln k is k A'(k)."""
    from scipy.special import ive

    for k in (0.5, 10.0, 400.0):
        log_k = torch.tensor(math.log(k), requires_grad=True)
        uniform = (torch.arange(20_000) + 0.5) / 20_000
        cosine = Density(log_k.expand(20_000), across).angles(uniform).cos().mean()
        ratio = ive(across / 2, k) / ive(across / 2 - 1, k)
        assert cosine.item() == pytest.approx(ratio, abs=2e-3 * (1 - ratio) + 1e-5)
        cosine.backward()
        slope = k * (1 - ratio**2 - (across - 1) / k * ratio)
        assert log_k.grad is not None and log_k.grad.item() == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize(("spec", "change", "message"), [
    (Circle, {"count": 0}, "bottleneck.count is 0"),
    (Sphere, {"dimensions": 1}, "bottleneck.dimensions is 1"),
    (Sphere, {"concentration": 0.0}, "bottleneck.concentration is 0.0"),
    (Circle, {"kl_weight": -1.0}, "bottleneck.kl_weight is -1.0"),
])  # fmt: skip
def test_refuses_what_cannot_be(spec, change, message):
    with pytest.raises(ValueError, match=message):
        spec(**change)


TURNS = 180
"""Pictures of one turn."""


def turning() -> torch.Tensor:
    """A heart [180, 1, 16, 16], at every second degree."""
    mask = coverage(["heart"], np.array([[0.5, 0.5, 0.32]], np.float32), 128)[0]
    heart = Image.fromarray((255 * mask).astype(np.uint8))
    turned = (heart.rotate(360 * i / TURNS, Image.Resampling.BICUBIC) for i in range(TURNS))
    small = [np.array(each.resize((16, 16), Image.Resampling.BOX)) for each in turned]
    return torch.from_numpy(np.stack(small)).float()[:, None] / 127.5 - 1


def trained(spec, seed: int, out) -> tuple[np.ndarray, np.ndarray]:
    """Latents [180, channels] of a turn, and the squared error of each picture."""
    torch.manual_seed(seed)
    images = turning()
    shuffled = images[torch.randperm(TURNS)]
    made = ImageTokenizer(Dense((128, 128), "silu").autoencoder(spec, 16, 1), spec.build())
    pixel = GaussianLikelihood(deviation=FixedDeviation(0.2)).build()
    objective = Reconstruction(made, {"pixel": (1.0, pixel)}, AdamW(1e-3))
    run = Run(out, 1500, 90, ema=None, precision="fp32", save_every=1500, log_every=1500)
    fit([objective], tiny.Repeating({"image": shuffled}, 90), run)
    with torch.no_grad():
        error = (made.eval().reconstruct(images) - images).square().mean((1, 2, 3))
        return made.latents(images).flatten(1).double().numpy(), error.numpy()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two angles, whichever way they turn and wherever they begin: 1 where they differ, or add
    up, to a constant (Jupp & Mardia 1980)."""
    return max(abs(np.exp(1j * (a - b)).mean()), abs(np.exp(1j * (a + b)).mean()))
