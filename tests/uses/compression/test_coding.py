"""What the range coder writes is written down here: files that were made must be read for ever."""

import numpy as np
import pytest

from calotype.uses.compression import coding
from calotype.uses.compression.coding import BITS, RangeDecoder, RangeEncoder, quantised

GOLDEN = {
    (2, 40): "000001094a55da5f72",
    (3, 7): "000002a1",
    (16, 30): "0000004630300da1a53ff55f627f7eb4546c256486530fda6dbfa5",
    (258, 25): "000000ae35bc0345ba6144e7d99fa1351a103c537048e03f9824fdc5dbf972d2873f",
    (16384, 12): "000000ae1542308da0832d96fa6c6f7ace78c57e",
}
"""Bytes of so many kinds of symbols, and so many symbols, by the tables of `table`."""


def table(kinds: int, count: int) -> np.ndarray:
    """Whole numbers of very different sizes, up to 2**24, by no chance."""
    place = np.arange(kinds * count, dtype=np.int64).reshape(count, kinds)
    return (1 + (place * 7_368_787 % 2**24 >> place % 23)).astype(np.float64)


def symbols(kinds: int, count: int) -> np.ndarray:
    """Every other one the likeliest."""
    any_of = np.arange(count) ** 3 % kinds
    return np.where(np.arange(count) % 2, table(kinds, count).argmax(1), any_of)


@pytest.mark.parametrize("kinds, count", GOLDEN)
def test_the_coder_writes_and_reads_what_it_always_did(kinds, count):
    some, weights = symbols(kinds, count), table(kinds, count)
    data = bytes.fromhex(GOLDEN[kinds, count])
    assert np.array_equal(RangeDecoder(data)(weights), some)
    coder = RangeEncoder()
    coder(some, weights)
    assert bytes(coder).hex() == data.hex()


def test_the_shortest_bytes_are_decoded_and_no_shorter_ones():
    chance = np.random.default_rng(0)
    for kinds in (2, 16, 700):
        for count in (1, 2, 3, 9):
            weights = np.maximum(1, (2**24 * chance.random((count, kinds)) ** 90).round())
            some = chance.integers(0, kinds, count)
            coder = RangeEncoder()
            coder(some, weights)
            data = bytes(coder)
            assert np.array_equal(RangeDecoder(data)(weights), some)
            kept = max(0, len(data) - 1)
            number = int.from_bytes(data[:kept], "big")
            nearby = [each.to_bytes(kept, "big") for each in (number, number + 1)
                      if kept and each < 256**kept]  # fmt: skip
            assert not any(np.array_equal(RangeDecoder(each)(weights), some) for each in nearby)


def test_whole_numbers_are_ours_and_leave_the_coder_nothing_to_round():
    """By what the coder then divides its first interval into, at each end of each symbol."""
    weights = table(258, 3)
    share = quantised(weights)
    assert np.array_equal(share, share.round()) and share.min() >= 0
    assert (share.sum(1) == 2**BITS - 258).all()
    likely = weights / weights.sum(1, keepdims=True)
    assert abs((share + 1) / 2**BITS - likely).max() < 259 / 2**BITS
    ends = (share[0] + 1).cumsum()
    for symbol in (0, 1, 77, 257):
        coder = coding.CODERS.stream.queue.RangeEncoder()
        coder.encode(np.array([symbol], np.int32), coding._family(), share[:1])
        words, (low, width) = coder.pos()
        unit = (2**64 - 1 >> BITS) << 32 * words
        assert low == int(ends[symbol] - share[0, symbol] - 1) * unit % 2**64
        assert width == int(share[0, symbol] + 1) * unit
