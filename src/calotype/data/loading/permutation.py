"""An order of many numbers that takes no memory for each of them."""

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 6
"""Of the network; four make it as good as random to whoever sees few of its values (Luby and
Rackoff 1988), and each costs as much as a sum."""


class Permutation:
    """The numbers below n in an order that the seed chooses, any part of which is computed when it
    is asked for: a Feistel network over the least square of a power of two that holds them, walked
    until it comes back below n (Black and Rogaway 2002).

    Args:
        n: How many there are, 1 or more.
        seed: Of the order.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
        self.keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, places: slice) -> Int64[np.ndarray, " places"]:
        found = np.arange(*places.indices(self.n), dtype=np.uint64)
        found = self._through(found)
        while len(outside := np.flatnonzero(found >= self.n)):
            found[outside] = self._through(found[outside])
        return found.astype(np.int64)

    def _through(self, numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
        mask = (np.uint64(1) << self.half) - np.uint64(1)
        left, right = numbers >> self.half, numbers & mask
        for key in self.keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return left << self.half | right


def _mixed(numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """A hash of 64 bits (SplitMix64's; Steele et al. 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)
