import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.data.cache.spans import Spans
from calotype.data.loading.plan import Plan

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)


def plan(counts: list[int], step: int, seed: int | None = 3) -> Plan:
    ends = np.cumsum(counts)
    return Plan([np.arange(e - n, e) for e, n in zip(ends, counts, strict=True)], step, seed)


def bucket_of(counts: list[int], index: int) -> int:
    return int(np.searchsorted(np.cumsum(counts), index, side="right"))


@settings(max_examples=50)
@given(COUNTS, st.integers(1, 12), st.integers(0, 5))
def test_at_the_end_of_each_epoch_pictures_have_come_alike(
    counts: list[int], step: int, epoch: int
) -> None:
    found = plan(counts, step)
    steps = found._steps(epoch)
    seen = Counter(index for k in range(steps) for index in found(k * step, step).tolist())
    for index in range(sum(counts)):
        own = counts[bucket_of(counts, index)]
        # As often as epochs have passed, but for what is left over of the bucket.
        assert epoch - step / own < seen[index] <= epoch + 1
        if own >= step:
            assert seen[index] in (epoch, epoch + 1)


@settings(max_examples=50)
@given(COUNTS, st.integers(1, 12), st.integers(0, 10**9))
def test_a_step_is_of_one_bucket_and_divides_in_any_way(
    counts: list[int], step: int, position: int
) -> None:
    whole = plan(counts, step)(position * step, step).tolist()
    assert len({bucket_of(counts, index) for index in whole}) == 1
    for each in (n for n in range(1, step + 1) if step % n == 0):
        fresh = plan(counts, step)
        parts = [fresh(position * step + i, each).tolist() for i in range(0, step, each)]
        assert [index for part in parts for index in part] == whole


def test_steps_of_a_bucket_follow_one_another() -> None:
    found = plan([7, 20, 1], 4)
    turns: dict[int, list[int]] = {}
    for step in range(200):
        bucket, turn = found.place(step)
        turns.setdefault(bucket, []).append(turn)
    assert all(each == list(range(len(each))) for each in turns.values())
    # In proportion to their pictures.
    assert [len(turns[k]) for k in range(3)] == pytest.approx([50, 143, 7], abs=2)


def test_orders_differ_by_epoch_by_bucket_and_by_seed() -> None:
    found = plan([30, 30], 30)
    epochs = [found(30 * k, 30).tolist() for k in range(8)]
    assert len({tuple(index % 30 for index in each) for each in epochs}) == 8
    assert plan([30, 30], 30, seed=4)(0, 30).tolist() != epochs[0]
    assert plan([30, 30], 30, seed=None)(0, 30).tolist() == list(range(30))


def test_batches_that_straddle_two_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="4 samples from 6 on are of two steps of 8"):
        plan([40], 8)(6, 4)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=8))
def test_spans_are_the_rows_that_they_say(gaps: list[tuple[int, int]]) -> None:
    rows, firsts, first = list[int](), list[int](), 0
    for gap, count in gaps:
        firsts.append(first + gap)
        first = firsts[-1] + count
        rows += range(firsts[-1], first)
    found = Spans(np.array(firsts), np.array([count for _, count in gaps]))
    assert np.asarray(found).tolist() == rows


def test_bug_rows_of_several_shapes_took_memory_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan over a hundred million rows in spans holds nothing for each, torch's lists neither."""
    monkeypatch.setattr("calotype.data.loading.order.shuffled", pytest.fail)
    each = 10_000_000
    spans = [Spans(np.array([k * each]), np.array([each])) for k in range(10)]
    tracemalloc.start()
    found = Plan(spans, 2**14, seed=0)
    steps = [found(k * 2**14, 2**14) for k in range(4)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
    assert {len(np.unique(step)) for step in steps} == {2**14}
    assert all(len(set((step // each).tolist())) == 1 for step in steps)
