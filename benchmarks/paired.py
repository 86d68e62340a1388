"""What measurements beside a peer share: processes of their own, turns that alternate, ratios."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import torch

from calotype.training import Batch

K = TypeVar("K", bound=Hashable)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where `fit` trains, and so peers too."""


class Timed:
    """A loader that notes when each batch was asked for."""

    def __init__(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.source, self.asked = batches, [0.0]

    def batches(
        self,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
    ) -> Iterator[Batch]:
        """One rank's."""
        self.asked.clear()
        for batch in self.source():
            self.asked.append(time.perf_counter())
            yield batch

    def seconds(self, warmup: int = 2) -> float:
        """The median time from one batch to the next, after `warmup` of them."""
        gaps = [b - a for a, b in zip(self.asked, self.asked[1:], strict=False)]
        return statistics.median(gaps[warmup:])


def alone(*words: str) -> list[float]:
    """What a process of its own, this script with these words, prints last, as JSON."""
    done = subprocess.run([sys.executable, sys.argv[0], *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(
    kinds: Sequence[K], measure: Callable[[K], list[float]], rounds: int
) -> dict[K, list[list[float]]]:
    """Every kind's measurements, a row each round, the order turned round after each."""
    found: dict[K, list[list[float]]] = {kind: [] for kind in kinds}
    for turn in range(rounds):
        for kind in kinds if turn % 2 == 0 else tuple(reversed(kinds)):
            found[kind].append(measure(kind))
    return found


def median(rows: Sequence[Sequence[float]], column: int) -> float:
    """Of one column."""
    return statistics.median(row[column] for row in rows)


def ratio(ours: Sequence[float], peer: Sequence[float]) -> str:
    """By how much ours is less, round by round: the median, the least and the most."""
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
