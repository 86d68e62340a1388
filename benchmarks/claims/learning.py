"""What the claims have in common: pictures in memory, autoencoders that learn them by `fit`, and
how a figure, its bar and its controls are told.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calotype.data.digits import EVERY
from calotype.data.digits import digits as handwritten
from calotype.tokenizers import ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import BottleneckSpec
from calotype.tokenizers.corruptions import Corruption
from calotype.tokenizers.encoder_terms import EncoderTerm
from calotype.tokenizers.terms import FixedDeviation, GaussianLikelihood, Pixel
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW, Batch, Objective, Run, fit

DENSE = Dense((256, 256))
NORMAL = GaussianLikelihood(deviation=FixedDeviation(0.2))
"""Of images in [-1, 1]: 0.1 of black to white."""


@dataclass(frozen=True)
class Figure:
    """One measured figure of a claim."""

    name: str
    measured: float
    bar: str
    """What it should be, in words."""
    holds: bool
    control: str = ""
    """The same of what has not what is claimed."""

    def row(self) -> str:
        """For a table."""
        missed = "" if self.holds else ", **missed**"
        return f"| {self.name} | {self.measured:.4g}{missed} | {self.bar} | {self.control} |"


class Shuffled:
    """Batches of tensors in memory for one process, in a new order each pass."""

    def __init__(self, columns: Mapping[str, Tensor], batch_size: int) -> None:
        self.columns, self.batch_size = columns, batch_size
        self.count = len(next(iter(columns.values())))

    def batches(
        self, position: int = 0, rank: int = 0, world: int = 1, micro_batch: int | None = None
    ) -> Iterator[Batch]:
        """From a sample on, without end."""
        while True:
            places = range(position, position + self.batch_size)
            rows = [order(p // self.count, self.count)[p % self.count] for p in places]
            found = {name: column[rows] for name, column in self.columns.items()}
            yield {**found, "key": [p * 2654435761 % 2**32 for p in places]}
            position += self.batch_size


@lru_cache(2)
def order(turn: int, count: int) -> np.ndarray:
    """Of the rows, in a pass."""
    return np.random.default_rng(turn).permutation(count)


def train(
    objective: Objective, columns: Mapping[str, Tensor], steps: int, batch_size: int = 64,
    seed: int = 0,
) -> None:  # fmt: skip
    """Train by `fit`, in a folder that is gone when it is done."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"), steps, batch_size, ema=None, clip=None, precision="fp32",
                  save_every=10**9, sample_every=10**9, log_every=10**3, seed=seed)  # fmt: skip
        fit([objective], Shuffled(columns, batch_size), run)
    objective.eval()


def member(
    bottleneck: BottleneckSpec, images: Tensor, pixel: Pixel, dense: Dense = DENSE,
    corruption: Corruption | None = None, optimizer: AdamW | None = None, seed: int = 0,
    terms: Mapping[str, EncoderTerm] = MappingProxyType({}),
) -> Reconstruction:  # fmt: skip
    """One of the family between plain layers, with fresh weights, for images such as these."""
    torch.manual_seed(seed)
    size, channels = images.shape[-1], images.shape[1]
    made = dense.autoencoder(bottleneck, size, channels, pixel.maps)
    tokenizer = ImageTokenizer(made, bottleneck.build())
    optimizer = optimizer or AdamW(1e-3, schedule="cosine")
    return Reconstruction(tokenizer, {"pixel": (1.0, pixel.build())}, optimizer,
                          corruption=corruption, encoder_terms=terms)  # fmt: skip


def trained(
    bottleneck: BottleneckSpec, images: Tensor, pixel: Pixel, steps: int, batch_size: int = 64,
    factors: Tensor | None = None, **how: Any,
) -> ImageTokenizer:  # fmt: skip
    """The same, trained on these; `how` is `member`'s."""
    objective = member(bottleneck, images, pixel, **how)
    columns = {"image": images} | ({} if factors is None else {"factors": factors})
    train(objective, columns, steps, batch_size, how.get("seed", 0))
    return objective.tokenizer


@lru_cache(1)
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's, 1,437 to learn and which they are, 360 to measure and which they are; images
    [n, 1, 8, 8] in [-1, 1].
    """
    levels, labels = (torch.from_numpy(each) for each in handwritten())
    pixels = levels.float()[:, None] / 127.5 - 1
    test = torch.arange(len(pixels)) % EVERY == 0
    return pixels[~test], labels[~test], pixels[test], labels[test]


def psnr_of(fake: Tensor, real: Tensor) -> float:
    """Of all pictures together in dB, unclipped, as noise has it too."""
    return -10 * np.log10((fake - real).square().mean().item() / 4)
