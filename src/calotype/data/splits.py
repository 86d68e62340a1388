"""Rows that are held out, evenly spread, and those that are left: by arithmetic, for there may be
100 million of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True)
class Spread(Sequence[int]):
    """`count` of `total` rows, of which the k-th is k * total // count."""

    total: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return int(self.rows(np.array([range(self.count)[place]]))[0])

    def rows(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Rows by their places among these."""
        return places * self.total // self.count

    def before(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many of these lie before each row."""
        return -(-rows * self.count // self.total) if self.count else 0 * rows


@dataclass(frozen=True)
class Left(Sequence[int]):
    """The rows that a spread leaves."""

    out: Spread

    def __len__(self) -> int:
        return self.out.total - self.out.count

    def __getitem__(self, place: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return int(self.rows(np.array([range(len(self))[place]]))[0])

    def rows(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Rows by their places among these: behind the k-th that is out,
        k * total // count - k are left, so that (place + 1) * count / len(self) of them,
        rounded up, lie before.
        """
        return places - (-(places + 1) * self.out.count // len(self))

    def before(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many of these lie before each row."""
        return rows - self.out.before(rows)


Some = Spread | Left
