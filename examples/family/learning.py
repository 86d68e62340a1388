"""What these examples have in common: tensors in memory, learnt by `fit` in a folder that is gone
when it is done.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import Reconstruction
from calotype.tokenizers.corruptions import Corruption
from calotype.tokenizers.terms import L2, Pixel
from calotype.training import AdamW, Batch, Objective, Run, fit

ROOT = Path("runs/examples")


@dataclass(frozen=True)
class Rows:
    """Batches of tensors in memory, shuffled anew in each pass."""

    columns: dict[str, Tensor]
    size: int
    """Samples of a step, of all ranks together."""

    def batches(
        self, position: int = 0, rank: int = 0, world: int = 1, micro_batch: int | None = None
    ) -> Iterator[Batch]:
        """Endless ones."""
        count, size = len(next(iter(self.columns.values()))), micro_batch or self.size // world
        first = position + rank * size
        while True:
            keys = range(first, first + size)
            rows = [_order(key // count, count)[key % count] for key in keys]
            yield {**{name: part[rows] for name, part in self.columns.items()}, "key": list(keys)}
            first += world * size


@lru_cache(2)
def _order(turn: int, count: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(turn)).tolist()


def learn(objective: Objective, columns: dict[str, Tensor], steps: int, batch: int = 64) -> None:
    """Train an objective on rows, one key a row; its weights are left in it."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / type(objective).__name__.lower()
        run = Run(out, steps=steps, batch_size=batch, ema=None, precision="fp32",
                  save_every=steps, sample_every=steps)  # fmt: skip
        out.mkdir()
        fit([objective], Rows(columns, batch), run)
    objective.eval()


def member(
    model: NewTokenizer, size: int, pixel: Pixel | None = None,
    corruption: Corruption | None = None, optimizer: AdamW | None = None, seed: int = 0,
) -> Reconstruction:  # fmt: skip
    """One of the family, with fresh weights, for grey images of `size` pixels a side."""
    torch.manual_seed(seed)
    term = (pixel or L2()).build()
    tokenizer = model.build(size, "L", term.maps)
    optimizer = optimizer or AdamW(2e-3, schedule="cosine")
    return Reconstruction(tokenizer, {"pixel": (1.0, term)}, optimizer, corruption=corruption)
