"""The figures of a run's metrics.jsonl, read on as it grows, in a bounded number of points."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_POINTS = 400
"""Of a curve: there may be twice as many, and then neighbours are merged."""

Point = tuple[int, float]
"""Optimiser step and value."""


class Curve:
    """A figure's values over steps: each where there are few, means of neighbours where there are
    many, and the extremes of all.
    """

    def __init__(self) -> None:
        self.merged: list[Point] = []
        self.each, self.waiting = 1, list[float]()
        self.first = self.last = (0, math.nan)
        self.lowest, self.highest = math.inf, -math.inf

    def add(self, step: int, value: float) -> None:
        """Go on."""
        if not self.merged and not self.waiting:
            self.first = step, value
        self.last = step, value
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)
        self.waiting.append(value)
        if len(self.waiting) == self.each:
            self.merged.append((step, _mean(self.waiting)))
            self.waiting = []
        if len(self.merged) == 2 * MOST_POINTS:
            pairs = zip(self.merged[::2], self.merged[1::2], strict=True)
            self.merged = [(step, _mean([a, b])) for (_, a), (step, b) in pairs]
            self.each *= 2

    @property
    def points(self) -> list[Point]:
        """What is drawn."""
        return self.merged + ([(self.last[0], _mean(self.waiting))] if self.waiting else [])


class Curves(dict[str, Curve]):
    """The curves of a file by figure; what is no number is left out.

    Args:
        file: metrics.jsonl; there may be none yet.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self._read = file, 0

    def look(self) -> "Curves":
        """Read what has been written since the last look; of a file that was cut, all."""
        size = self.file.stat().st_size if self.file.exists() else 0
        if size < self._read:
            self.clear()
            self._read = 0
        if size > self._read:
            for row in self._rows():
                for name, value in row.items():
                    if name != "step" and math.isfinite(value):
                        self.setdefault(name, Curve()).add(row["step"], value)
        return self

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.file.open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                if not line.endswith(b"\n"):  # it is just being written
                    return
                self._read += len(line)
                yield json.loads(line)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
