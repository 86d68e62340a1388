"""Which example comes when: the orders in which a map-style dataset is drawn, without end.

An order is a function of the seed and the position alone, so that any rank, and a resumed run,
begins anywhere at once.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import Dataset

from calotype.data.loading.batches import epoch_seed
from calotype.data.loading.permutation import Permutation

Places = Int64[np.ndarray, " _"]
"""Places into a dataset."""


LARGE = 2**24
"""Examples from which on their order is computed where it is needed: as a list it would take eight
bytes for each."""
BLOCK = 1000
"""Draws in which several sources have their shares, in whole pictures."""
Order = Callable[[int, int], Places]
"""Of (start, count): the indices of so many draws from `start` on, counted from a run's start."""


class InOrder:
    """Examples 0 to n - 1, again and again."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, start: int, count: int) -> Places:
        """As of `Order`."""
        return np.arange(start, start + count) % self.n


class Shuffled:
    """Epochs of n examples, each epoch in an order of its own.

    Args:
        n: Examples.
        seed: Of all epochs' orders.
        own: Gives the order of an epoch by its seed, or None: any will do.
    """

    def __init__(self, n: int, seed: int, own: Callable[[int], Any] | None = None) -> None:
        self.n, self.seed, self.own = n, seed, own
        self._epoch = lru_cache(maxsize=2)(self._order)

    def __call__(self, start: int, count: int) -> Places:
        """As of `Order`."""
        return cut(self._epoch, self.n, start, count)

    def _order(self, epoch: int) -> Any:
        return ordered(self.n, epoch_seed(self.seed, epoch), self.own, self.n)


def ordered(n: int, seed: int, own: Callable[[int], Any] | None, total: int) -> Any:
    """The numbers below n in the order of an epoch, as of `Shuffled`, where `total` are held in
    such orders.
    """
    found = own and own(seed)
    if found is not None:
        return found
    return Permutation(n, seed) if total >= LARGE else shuffled(n, seed)


def shuffled(n: int, seed: int) -> Places:
    """The numbers below n in a random order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()


def cut(order: Callable[[int], Any], n: int, start: int, count: int) -> Places:
    """The ordinals [start, start + count) of epochs of n, whose orders are given: slices of them
    are arrays, or ranges.
    """
    epochs = range(start // n, (start + count - 1) // n + 1)
    parts = [order(e)[max(start - e * n, 0) : start + count - e * n] for e in epochs]
    return np.concatenate(parts)


class Among:
    """The order of some examples of many.

    Args:
        order: Of the places 0 to len(places) - 1.
        places: Index of each.
    """

    def __init__(self, order: Order, places: Int64[np.ndarray, " n"]) -> None:
        self.order, self.places = order, places

    def __call__(self, start: int, count: int) -> Places:
        """As of `Order`."""
        return self.places[self.order(start, count)]


class Turns:
    """Which of several sources a draw is of: of each block of draws every one has its share, in a
    shuffled order.

    Args:
        shares: Draws of each in a block; 1 or more.
        seed: Of the blocks' orders.
    """

    def __init__(self, shares: Sequence[int], seed: int) -> None:
        self.shares = np.asarray(shares)
        self._block = Shuffled(int(self.shares.sum()), seed)
        self._whose = np.repeat(np.arange(len(shares)), self.shares)

    def __call__(self, start: int, count: int) -> Places:
        """Numbers of the sources of so many draws from `start` on."""
        return self._whose[self._block(start, count)]

    def had(self, start: int) -> Places:
        """How many draws before `start` are of each."""
        block, n = start // self._block.n, self._block.n
        before = self._whose[self._block(block * n, n)[: start % n]]
        return block * self.shares + np.bincount(before, minlength=len(self.shares))


class Shares:
    """Several orders at once, by turns. Each goes on where its own last draw was, so that its
    epochs go round for themselves.

    Args:
        order: The k-th of them.
        shares: As of `Turns`.
        seed: As of `Turns`.
    """

    def __init__(self, order: Callable[[int], Order], shares: Sequence[int], seed: int) -> None:
        self.order = lru_cache(maxsize=1024)(order)
        self.turns = Turns(shares, seed)

    def __call__(self, start: int, count: int) -> Places:
        """As of `Order`."""
        had, whose = self.turns.had(start), self.turns(start, count)
        found = np.empty(count, np.int64)
        for k in np.unique(whose).tolist():
            places = np.flatnonzero(whose == k)
            found[places] = self.order(k)(int(had[k]), len(places))
        return found


def shares(weights: Sequence[float]) -> list[int]:
    """Draws of each source in the smallest block that gives the weights exactly, or, where none of
    at most `BLOCK` does, in one of about `BLOCK`; each has one or more.
    """
    parts = np.asarray(weights) / sum(weights)
    for block in range(len(weights), BLOCK + 1):
        whole = np.rint(parts * block)
        if whole.min() >= 1 and np.allclose(parts * block, whole, rtol=0, atol=1e-6):
            return whole.astype(int).tolist()
    whole = np.maximum(np.floor(parts * BLOCK), 1).astype(int)
    for k in np.argsort(whole - parts * BLOCK, kind="stable")[: max(0, BLOCK - whole.sum())]:
        whole[k] += 1
    return whole.tolist()


def part_seed(seed: int, part: int) -> int:
    """Seed of one of the orders within another, apart from those of epochs and of keys."""
    return int(np.random.SeedSequence(seed, spawn_key=(part, 0)).generate_state(1, np.uint64)[0])


def order_of(dataset: Dataset[Any], n: int, seed: int) -> Order:
    """The order in which a dataset of n examples is drawn: one that it says itself by a method
    `draws(seed)`, else in shuffled epochs, whose orders it may say by a method `order(seed)`.
    """
    own: Callable[[int], Order] | None = getattr(dataset, "draws", None)
    return own(seed) if own else Shuffled(n, seed, getattr(dataset, "order", None))
