"""What the literature claims for penalties, with controls, on pictures with true factors."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from calotype.data import Loader, Shapes, Transform
from calotype.data.reading.transforms import CenterCrop
from calotype.evaluation.disentanglement import mutual_information_gap
from calotype.tokenizers import Gaussian, ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import BottleneckSpec, Identity
from calotype.tokenizers.bottlenecks.divergences import Decomposed
from calotype.tokenizers.contraction import Exact, Jacobian
from calotype.tokenizers.encoder_terms import EncoderTerm, Seen
from calotype.tokenizers.terms import L2, BernoulliLikelihood, Pixel
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW, fit

DATA = Shapes().build()
GREY = Transform(CenterCrop(16), mode="L")


def every() -> tuple[torch.Tensor, np.ndarray]:
    """All pictures, in grey, and their factors."""
    batch = DATA.batch(range(len(DATA)))
    return batch["image"][:, :1], batch["factors"].long().numpy()


def trained(
    out: Path, spec: BottleneckSpec, pixel: Pixel, seed: int = 0, steps: int = 1000,
    decay: float = 0.0, terms: dict[str, EncoderTerm] | None = None, activation="relu",
) -> ImageTokenizer:  # fmt: skip
    torch.manual_seed(seed)
    backbone = Dense((128, 128), activation)
    made = ImageTokenizer(backbone.autoencoder(spec, 16, 1), spec.build())
    settings = AdamW(2e-3, weight_decay=decay)
    objective = Reconstruction(made, {"pixel": (1.0, pixel.build())}, settings,
                               encoder_terms=terms or {})  # fmt: skip
    run = tiny.run(out, steps=steps, batch_size=128, ema=None, save_every=steps, log_every=steps)
    fit([objective], Loader(DATA, 128, seed=seed, transform=GREY), run)
    return made.eval()


@torch.no_grad()
def figures(made: ImageTokenizer) -> tuple[float, float, float]:
    """Nats of the likeliest reconstruction a picture, of the divergence, and MIG."""
    images, factors = every()
    nats = BernoulliLikelihood().build()(made.reconstruct(images), images).mean().item() * 256
    rate = made.bottleneck(made.features(images)).divergence
    gap = mutual_information_gap(made.latents(images).flatten(1).numpy(), factors).mean()
    return nats, rate.mean().item(), float(gap)


@pytest.mark.slow
def test_the_rate_falls_and_the_distortion_rises_with_beta(tmp_path):
    found = [
        figures(trained(tmp_path / str(beta), Gaussian(6, beta), BernoulliLikelihood(), steps=500))
        for beta in (0.1, 0.5, 2.0, 8.0, 32.0)
    ]
    distortions, rates, _ = zip(*found, strict=True)
    print(f"rates {rates} nats, distortions {distortions} nats")
    assert list(rates) == sorted(rates, reverse=True) and rates[0] > 2 * rates[-1]
    assert list(distortions) == sorted(distortions) and distortions[-1] > 1.5 * distortions[0]


@pytest.mark.slow
def test_total_correlation_disentangles_what_beta_does_not(tmp_path):
    """MIG over five seeds, both by 8 (Chen et al. 2018): at least 0.3 higher, and rebuilt better.
    The shape is hardly told by one number with either.
    """
    parts = Gaussian(6, 1.0, divergence=Decomposed(len(DATA), total_correlation=8.0))
    found = {
        name: np.array([
            figures(trained(tmp_path / f"{name}-{seed}", spec, BernoulliLikelihood(), seed))
            for seed in range(5)
        ])
        for name, spec in (("beta", Gaussian(6, 8.0)), ("tc", parts))
    }  # fmt: skip
    for name, each in found.items():
        print(name, "nats, rate, MIG by seed:", each.round(3).tolist())
    assert found["tc"][:, 2].mean() > found["beta"][:, 2].mean() + 0.3
    assert found["tc"][:, 0].mean() < found["beta"][:, 0].mean()


@pytest.mark.slow
def test_at_equal_error_contraction_leaves_less_slope_than_weight_decay(tmp_path):
    """Less than a half, where the error is that of a decay; read off between the contractions that
    are next to it.
    """

    def measured(name: str, **changes) -> tuple[float, float]:
        made = trained(tmp_path / name, Identity(8), L2(), steps=500, activation="sigmoid",
                       **changes)  # fmt: skip
        images, _ = every()
        with torch.no_grad():
            error = (made.reconstruct(images) - images).square().mean().item()
        some = images[::12]
        norm = Jacobian(1.0, Exact())(made, Seen(some, some, [])).mean().item() * 256
        return error, norm

    decayed = [measured(f"decay-{d}", decay=d) for d in (0.1, 0.3, 1.0)]
    contracted = [measured(f"contraction-{w}", terms={"contraction": Jacobian(w)})
                  for w in (0.03, 0.1, 0.3, 1.0, 3.0)]  # fmt: skip
    print("decay (error, norm):", decayed, "contraction:", contracted)
    errors, norms = np.log(sorted(contracted)).T
    compared = [(error, norm) for error, norm in decayed
                if errors[0] <= np.log(error) <= errors[-1]]  # fmt: skip
    assert len(compared) >= 2
    for error, norm in compared:
        assert np.exp(np.interp(np.log(error), errors, norms)) < norm / 2
