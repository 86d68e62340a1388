"""Symbols to bytes and back, by a range coder (Martin 1979) of the package constriction."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from calotype.lazy import constriction
from calotype.uses.compression.container import DamagedError

CODERS: Any = constriction
"""Its submodules have no types."""
Weights = Float[np.ndarray, "_ _"]
"""At each place how likely each symbol is: whole numbers in proportion, in float64."""
Symbols = Integer[np.ndarray, " _"]
SPARE = 8
"""Bytes at the end of what the coder gives that may say nothing."""


def encoded(*parts: tuple[Symbols, Weights]) -> bytes:
    """The fewest bytes that are decoded as these symbols, one part after another."""
    coder = CODERS.stream.queue.RangeEncoder()
    for symbols, weights in parts:
        coder.encode(symbols.astype(np.int32), _family(), weights)
    whole = coder.get_compressed().astype(">u4").tobytes()
    return _shortest(whole, parts)


class RangeDecoder:
    """Reads symbols from what `encoded` gave."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
        self._coder = CODERS.stream.queue.RangeDecoder(words)

    def __call__(self, weights: Weights) -> Symbols:
        """Read the next symbols.

        Raises:
            DamagedError: the coder wrote no such bytes, by these probabilities.
        """
        try:
            return self._coder.decode(_family(), weights).astype(np.int64)
        except AssertionError as error:
            raise DamagedError("no symbols can be decoded from it") from error


def _family() -> Any:
    return CODERS.stream.model.Categorical(perfect=False)


def _shortest(whole: bytes, parts: tuple[tuple[Symbols, Weights], ...]) -> bytes:
    """The coder ends with a whole word, of which often most is needless: zeros behind a prefix, or
    behind the next larger one, lie within the last symbol's interval too. Where none of so many
    bytes does, none of fewer does.
    """
    found = whole
    for kept in range(len(whole) - 1, max(0, len(whole) - SPARE) - 1, -1):
        number = int.from_bytes(whole[:kept], "big")
        nearby = [each.to_bytes(kept, "big") for each in (number, number + 1) if each < 256**kept]
        short = next((each for each in nearby if _says(each, parts)), None)
        if short is None:
            break
        found = short
    return found


def _says(data: bytes, parts: tuple[tuple[Symbols, Weights], ...]) -> bool:
    decoder = RangeDecoder(data)
    try:
        return all((decoder(weights) == symbols).all() for symbols, weights in parts)
    except DamagedError:
        return False
