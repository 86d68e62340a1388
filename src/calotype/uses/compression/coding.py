"""Symbols to bytes and back, by a range coder (Martin 1979) of the package constriction.

The coder divides an interval by whole numbers that add up to 2**24, and would round to such
whatever it is given. What another of its versions rounded otherwise would be another division, and
no file could be read; so it is given whole numbers that leave nothing to be rounded.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from calotype.lazy import constriction
from calotype.uses.compression.container import DamagedError

CODERS: Any = constriction
"""Its submodules have no types."""
Weights = Float[np.ndarray, "_ _"]
"""In each row how likely each symbol is: whole numbers in proportion, in float64."""
Symbols = Integer[np.ndarray, " _"]
Rows = Integer[np.ndarray, " _"]
"""Of weights, which is each symbol's; symbols of many pictures share a few."""
PART = 2**22
"""Numbers of float64 that weights may be which are held at once."""
BITS = 24
"""Of the coder's whole numbers."""
WORD = 32
"""Bits that the coder writes at once; what it has not written are two such."""
SPARE = 8
"""Bytes at the end of what the coder gives that may say nothing."""


class RangeEncoder:
    """Writes symbols; `bytes` of it are the fewest that are decoded as these."""

    def __init__(self) -> None:
        self._coder = CODERS.stream.queue.RangeEncoder()

    def __call__(self, symbols: Symbols, weights: Weights, rows: Rows | None = None) -> None:
        """Write the next symbols; `rows` None: the weights have a row for each."""
        for part, some in _parts(weights, rows):
            self._coder.encode(symbols[part].astype(np.int32), _family(), some)

    def __bytes__(self) -> bytes:
        """The coder ends with a whole word, of which often most is needless: zeros behind a prefix,
        or behind the next larger one, lie within the last symbol's interval too.
        """
        # All is a number, of which the coder holds the last two words as `low`: from there on as
        # many as `width` are within the interval.
        whole = self._coder.get_compressed().astype(f">u{WORD // 8}").tobytes()
        words, (low, width) = self._coder.pos()
        bits = WORD * (words + 2)
        number = int.from_bytes(whole, "big") << bits - 8 * len(whole)
        first = number - (number - low) % 4**WORD
        for kept in range(max(0, len(whole) - SPARE), len(whole)):
            rest = bits - 8 * kept
            for prefix in (number >> rest, (number >> rest) + 1):
                if first <= prefix << rest < first + width:
                    return prefix.to_bytes(kept, "big")
        return whole


class RangeDecoder:
    """Reads symbols from what `RangeEncoder` gave."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
        self._coder = CODERS.stream.queue.RangeDecoder(words)

    def __call__(self, weights: Weights, rows: Rows | None = None) -> Symbols:
        """Read the next symbols.

        Raises:
            DamagedError: the coder wrote no such bytes, by these probabilities.
        """
        try:
            found = [self._coder.decode(_family(), some) for _, some in _parts(weights, rows)]
        except AssertionError as error:
            raise DamagedError("no symbols can be decoded from it") from error
        return np.concatenate(found).astype(np.int64)


def quantised(weights: Weights) -> Weights:
    """What the coder divides its interval by, less the one that each symbol has at least: whole
    numbers, of which a row adds up to 2**24 less the symbols.
    """
    share = 2**BITS - weights.shape[1]
    ends = weights.cumsum(axis=1)
    ends *= share / ends[:, -1:]
    np.floor(ends, out=ends)
    ends[:, -1] = share
    ends[:, 1:] -= ends[:, :-1].copy()
    return ends


def _parts(weights: Weights, rows: Rows | None) -> Iterator[tuple[slice, Weights]]:
    """Places of some symbols after others, and what the interval is divided by at each."""
    whole = quantised(weights)
    count, most = len(whole if rows is None else rows), max(1, PART // whole.shape[1])
    for first in range(0, count, most):
        part = slice(first, first + most)
        yield part, whole[part if rows is None else rows[part]]


def _family() -> Any:
    return CODERS.stream.model.Categorical(perfect=False)
