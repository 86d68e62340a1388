"""An order in which few shards are read at a time, where they have to be fetched."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int64

AT_ONCE = 16
"""Shards that rows are drawn from at a time."""


class ShardOrder:
    """The rows of some shards in an order that the seed chooses: shards in random order, so many at
    a time, and the rows of those in random order. Any part of it is computed when it is asked for.

    Args:
        counts: Rows in each shard.
        seed: Of the order.
        at_once: Shards whose rows are mixed.
    """

    def __init__(
        self, counts: Int64[np.ndarray, " shards"], seed: int, at_once: int = AT_ONCE
    ) -> None:
        self.seed, self.at_once = seed, at_once
        self.firsts = np.cumsum(counts) - counts
        self.shards = np.random.default_rng(seed).permutation(len(counts))
        self.counts = counts[self.shards]
        ends = np.cumsum(self.counts)
        last = np.minimum(np.arange(at_once, len(counts) + at_once, at_once), len(counts)) - 1
        self.ends = ends[last]
        self._group = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, places: slice) -> Int64[np.ndarray, " places"]:
        first, last, _ = places.indices(len(self))
        found = [np.empty(0, np.int64)]
        while first < last:
            group = int(np.searchsorted(self.ends, first, side="right"))
            begin = int(self.ends[group - 1]) if group else 0
            part = self._group(group)[first - begin : last - begin]
            found.append(part)
            first += len(part)
        return np.concatenate(found)

    def _shuffled(self, group: int) -> Int64[np.ndarray, " rows"]:
        members = slice(group * self.at_once, (group + 1) * self.at_once)
        parts = zip(self.firsts[self.shards[members]], self.counts[members], strict=True)
        rows = np.concatenate([np.arange(first, first + count) for first, count in parts])
        return np.random.default_rng((self.seed, group)).permutation(rows)
