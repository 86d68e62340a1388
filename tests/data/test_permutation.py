"""Orders and splits of so many numbers that none of them is in memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from calotype.data import Loader
from calotype.data.cache.shard_order import ShardOrder
from calotype.data.loading.permutation import Permutation
from calotype.data.splits import Left, Spread

MANY = 10**8


@given(st.integers(1, 300), st.integers(0, 2**63))
def test_each_number_is_there_once(n, seed):
    order = Permutation(n, seed)
    assert sorted(order[:].tolist()) == list(range(n)) and len(order) == n
    assert order[n // 3 : n // 2].tolist() == order[:].tolist()[n // 3 : n // 2]


def test_an_order_is_as_good_as_random():
    """Places of numbers are even, and free of the numbers, of their neighbours and of the seed."""
    n = 5000
    first, second = (Permutation(n, seed)[:] / n for seed in (0, 1))
    counts = np.histogram(first[:1000], bins=10)[0]
    assert ((counts - 100) ** 2 / 100).sum() < 25  # chi square of nine degrees: 99.7 %
    for other in (np.arange(n) / n, np.roll(first, 1), second):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.05


@given(st.integers(1, 200), st.data())
def test_rows_are_held_out_evenly_by_arithmetic(total, data):
    count = data.draw(st.integers(0, total - 1))
    out = [i * total // count for i in range(count)]
    left = [row for row in range(total) if row not in out]
    for found, rows in ((Spread(total, count), out), (Left(Spread(total, count)), left)):
        assert list(found) == rows and len(found) == len(rows)
        before = found.before(np.arange(total + 1)).tolist()
        assert before == [sum(row < each for row in rows) for each in range(total + 1)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 99))
def test_few_shards_are_read_at_a_time(counts, at_once, seed):
    order = ShardOrder(np.array(counts), seed, at_once)
    rows = order[:].tolist()
    assert sorted(rows) == list(range(sum(counts))) and len(order) == len(rows)
    half = len(rows) // 2
    assert order[:half].tolist() + order[half:].tolist() == rows
    shards = np.repeat(np.arange(len(counts)), counts)[rows]
    seen = [list(dict.fromkeys(shards[start:].tolist())) for start in range(len(rows))]
    for start, row in enumerate(shards):  # a shard is done with before many others begin
        between = set(shards[start : start + len(rows) - list(shards[::-1]).index(row) - start])
        assert len(between) <= at_once, seen


class Huge(Dataset):
    def __len__(self) -> int:
        return MANY

    def __getitem__(self, i: int) -> dict[str, int]:
        return {"i": i}


@pytest.mark.parametrize("shuffle", [True, False])
def test_many_examples_are_drawn_without_a_list_of_them(shuffle):
    """Bug: an order of 100 million took 800 MB, and two were held."""
    tracemalloc.start()
    loader = Loader(Huge(), 64, seed=0, shuffle=shuffle, transform=lambda example, rng: example)
    first, again = (next(loader.batches(position=7 * MANY - 10))["i"] for _ in range(2))
    assert first == again and len({*first}) == 64
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
