"""Rows that are held out, evenly spread, and those that are left: by arithmetic, for there may be
100 million of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True)
class Spread(Sequence[int]):
    """`chosen` of `total` rows, of which the k-th is k * total // chosen."""

    total: int
    chosen: int

    def __len__(self) -> int:
        return self.chosen

    def __getitem__(self, place: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return int(self.rows(np.array([range(self.chosen)[place]]))[0])

    def rows(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Rows by their places among these."""
        return places * self.total // self.chosen

    def before(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many of these lie before each row."""
        return -(-rows * self.chosen // self.total) if self.chosen else 0 * rows


@dataclass(frozen=True)
class Left(Sequence[int]):
    """The rows that a spread leaves."""

    out: Spread

    def __len__(self) -> int:
        return self.out.total - self.out.chosen

    def __getitem__(self, place: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return int(self.rows(np.array([range(len(self))[place]]))[0])

    def rows(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Rows by their places among these: behind the k-th that is out,
        k * total // chosen - k are left, so that (place + 1) * chosen / len(self) of them,
        rounded up, lie before.
        """
        return places - (-(places + 1) * self.out.chosen // len(self))

    def before(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many of these lie before each row."""
        return rows - self.out.before(rows)


Some = Spread | Left
