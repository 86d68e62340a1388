"""Rows in spans, counted through: by arithmetic, for there may be 100 million of them."""

import numpy as np
from jaxtyping import Int64

from calotype.data.cache.shard_order import ShardOrder


class Spans:
    """The rows [first, first + count) of each of some spans, one after another.

    Args:
        firsts: Ascending, and no span reaches into the next.
        counts: Rows of each.
        at_once: Spans whose rows are mixed, where a span is a shard that has to be fetched; None:
            they may come in any order.
    """

    def __init__(
        self, firsts: Int64[np.ndarray, " spans"], counts: Int64[np.ndarray, " spans"],
        at_once: int | None = None,
    ) -> None:  # fmt: skip
        there = counts > 0
        self.firsts, self.counts, self.at_once = firsts[there], counts[there], at_once
        self.ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Rows by their places among these."""
        numbers = np.searchsorted(self.ends, places, side="right")
        return self.firsts[numbers] + places - (self.ends - self.counts)[numbers]

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Int64[np.ndarray, " n"]:
        return self[np.arange(len(self))]

    def order(self, seed: int) -> ShardOrder | None:
        """Places in the order of an epoch; None: in any."""
        return ShardOrder(self.counts, seed, self.at_once) if self.at_once else None
