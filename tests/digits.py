"""scikit-learn's digits, and what bottlenecks make of them between plain layers."""

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import tiny
from calotype.data.digits import digits as handwritten
from calotype.tokenizers import ImageTokenizer, Reconstruction
from calotype.tokenizers.terms.likelihoods import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW, Run, fit
from calotype.training.noise import generators

TRAINED = 1200
"""Of 1797; the others are for tests."""


@lru_cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [1797, 1, 8, 8] in [-1, 1], and which digits they are; in a fixed order of chance."""
    levels, which = (torch.from_numpy(each) for each in handwritten())
    order = torch.randperm(len(which), generator=torch.Generator().manual_seed(0))
    return levels[order, None] / 127.5 - 1, which[order]


def likelihood(deviation: float) -> GaussianLikelihood:
    return GaussianLikelihood(deviation=FixedDeviation(deviation))


def trained(
    spec, seed: int, steps: int, deviation: float = 0.2, widths: tuple[int, ...] = ()
) -> ImageTokenizer:
    """Between plain layers, by an ELBO."""
    torch.manual_seed(seed)
    made = ImageTokenizer(Dense(widths).autoencoder(spec, 8, 1), spec.build())
    pixel = likelihood(deviation).build()
    objective = Reconstruction(made, {"pixel": (1.0, pixel)}, AdamW(2e-3, schedule="cosine"))
    images = digits()[0][:TRAINED]
    with TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"), steps, 200, ema=None, precision="fp32", save_every=steps,
                  log_every=steps)  # fmt: skip
        fit([objective], tiny.Repeating({"image": images}, 200), run)
    return made.eval()


@torch.no_grad()
def drawn(tokenizer: ImageTokenizer) -> torch.Tensor:
    """A drawn code of each digit."""
    images = digits()[0]
    return tokenizer.encode(images, generators(range(len(images)))).z.flatten(1)


def accuracy(codes: torch.Tensor, per_class: int, draws: int = 20) -> float:
    """Of the nearest neighbour among so many labelled digits of each class, on held-out ones."""
    which, right = digits()[1], []
    for draw in range(draws):
        order = torch.randperm(TRAINED, generator=torch.Generator().manual_seed(draw))
        of_class = [order[which[order] == c][:per_class] for c in range(10)]
        labelled = torch.cat(of_class)
        nearest = torch.cdist(codes[TRAINED:], codes[labelled]).argmin(1)
        right.append((which[labelled][nearest] == which[TRAINED:]).float().mean().item())
    return sum(right) / draws
