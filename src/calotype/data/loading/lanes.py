"""In which order a run draws a stream, so that ranks and workers read different parts of it.

A stream is read at several places at once, its lanes. Which lane a sample comes from is a function
of its ordinal and of the samples of an optimiser step alone, both of which a resumed run keeps,
however ranks, workers and micro-batches share them.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from calotype.data.loading.batches import epoch_seed
from calotype.data.reading.records import Record
from calotype.data.streams import Parts

TURNS = (12, 6, 4, 3, 2, 1)
"""Numbers of steps after which the lanes of the first come again: they have many divisors, and as
many workers of a rank, one step each in turn, read different lanes."""


@dataclass(frozen=True)
class Lanes:
    """Which lane each ordinal of a run is drawn from: step t from those of turn t modulo `turns`,
    the samples of a step from these one after another.
    """

    turns: int
    width: int
    """Lanes of a step; a power of two, so that as many ranks read different ones."""
    step: int
    """Samples of an optimiser step, over all ranks and micro-batches."""

    @classmethod
    def of(cls, most: int, step: int) -> "Lanes":
        """Lay out no more lanes than `most`."""
        turns = next(n for n in TURNS if n * n <= 2 * most)
        return cls(turns, power_of_two(min(most // turns, step)), step)

    def __len__(self) -> int:
        return self.turns * self.width

    def lane(self, ordinal: int) -> int:
        """Lane of a sample."""
        step, place = divmod(ordinal, self.step)
        return step % self.turns * self.width + place * self.width // self.step

    def before(self, ordinal: int, lane: int) -> int:
        """How many samples of the lane come before an ordinal."""
        turn, slot = divmod(lane, self.width)
        first, end = (-(-k * self.step // self.width) for k in (slot, slot + 1))
        step, place = divmod(ordinal, self.step)
        whole = (step - turn + self.turns - 1) // self.turns if step > turn else 0
        begun = min(max(place - first, 0), end - first) if step % self.turns == turn else 0
        return whole * (end - first) + begun

    def ordinals(self, lane: int, start: int) -> Iterator[range]:
        """Ordinals of the samples that are drawn from a lane, from its start-th on, without end:
        those of a step lie beside each other.
        """
        turn, slot = divmod(lane, self.width)
        first, end = (-(-k * self.step // self.width) for k in (slot, slot + 1))
        begun, within = divmod(start, end - first)
        for whole in count(begun):
            begin = (whole * self.turns + turn) * self.step
            yield range(begin + first + within, begin + end)
            within = 0


def power_of_two(most: int) -> int:
    """The greatest that is no more than `most`, 1 or more."""
    return 1 << (most.bit_length() - 1)


class Span(NamedTuple):
    """Records of a part."""

    part: int
    start: int
    stop: int | None
    """None: to its end."""


@dataclass(frozen=True)
class Order(ABC):
    """The endless records of each lane."""

    lanes: Lanes

    @abstractmethod
    def records(self, lane: int, start: int) -> Iterator[Record]:
        """Give a lane's records from its start-th on."""


@dataclass(frozen=True)
class InParts(Order):
    """Those of parts."""

    parts: Parts
    seed: int | None
    """None: as they lie, without end."""
    block: int
    """Records of a lane that are shuffled with one another."""

    def permuted(self, epoch: int) -> Int64[np.ndarray, " parts"]:
        """The parts, in the order of an epoch."""
        return _permuted(len(self.parts), None if self.seed is None else (self.seed, epoch))

    def given(
        self, spans: Sequence[Span], epoch: int, lane: int, start: int
    ) -> Generator[Record, None, int]:
        """Give what a lane has of an epoch, shuffled within blocks, from the start-th on; return
        how far past its end `start` was.
        """
        seed = None if self.seed is None else epoch_seed(epoch_seed(self.seed, epoch), lane)
        return _shuffled(self.parts, spans, self.block, seed, start)


@dataclass(frozen=True)
class Cut(InParts):
    """Parts of known lengths in a row, cut into lanes: each record is there once an epoch."""

    def records(self, lane: int, start: int) -> Iterator[Record]:  # noqa: D102
        total = self.parts.ends[-1] if len(self.parts) else 0
        if not total:
            return
        for epoch in count(next(self.lanes.ordinals(lane, start)).start // total):
            first = self.lanes.before(epoch * total, lane)
            skipped = max(start - first, 0)
            yield from self.given(self._spans(epoch, lane, total), epoch, lane, skipped)

    def _spans(self, epoch: int, lane: int, total: int) -> list[Span]:
        begin, end = epoch * total, (epoch + 1) * total
        sizes = [self.lanes.before(end, each) - self.lanes.before(begin, each)
                 for each in range(lane + 1)]  # fmt: skip
        first = sum(sizes[:-1])
        last = first + sizes[-1]
        order, ends = _in_a_row(self, epoch)
        starts = np.concatenate([[0], ends[:-1]])
        some = range(int(np.searchsorted(ends, first, "right")),
                     int(np.searchsorted(starts, last, "left")))  # fmt: skip
        return [
            Span(int(order[k]), max(first - int(starts[k]), 0),
                 int(min(last, int(ends[k])) - starts[k]))
            for k in some if ends[k] > starts[k]
        ]  # fmt: skip


@lru_cache(maxsize=4)
def _in_a_row(order: Cut, epoch: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The parts of an epoch, and where each ends in the row."""
    parts = order.permuted(epoch)
    return parts, np.cumsum(np.array(order.parts.counts, np.int64)[parts])


@dataclass(frozen=True)
class Dealt(InParts):
    """Whole parts dealt to lanes, anew in each epoch of a lane, which ends when its parts do: what
    can be done where lengths are not known. Each record comes once in as many as there are, but for
    the ends of epochs, which the lanes reach one after another.
    """

    def records(self, lane: int, start: int) -> Iterator[Record]:  # noqa: D102
        lanes = len(self.lanes)
        for epoch in count():
            spans = [Span(int(part), 0, None) for part in self.permuted(epoch)[lane::lanes]]
            lengths = [self.parts.counts[span.part] for span in spans]
            known = None if None in lengths else sum(each for each in lengths if each)
            if known is not None and 0 < known <= start:
                start -= known
                continue
            start = yield from self.given(spans, epoch, lane, start)
            if all(length == 0 for length in self.parts.counts):
                return


def in_parts(parts: Parts, lanes: Lanes, seed: int | None, buffer: int) -> InParts:
    """The order of a stream's parts.

    Args:
        parts: Which.
        lanes: How they are laid out.
        seed: Of the order; None: as they lie.
        buffer: Records that are shuffled with one another, over all lanes.
    """
    kind = Cut if parts.counted else Dealt
    return kind(lanes, parts, seed, 1 if seed is None else max(1, buffer // len(lanes)))


def _permuted(n: int, seed: tuple[int, int] | None) -> Int64[np.ndarray, " n"]:
    if seed is None:
        return np.arange(n)
    return np.random.default_rng(epoch_seed(*seed)).permutation(n)


def _shuffled(
    parts: Parts, spans: Sequence[Span], size: int, seed: int | None, start: int
) -> Generator[Record, None, int]:
    """Give records, shuffled within blocks of `size`, the first block of a size by chance.

    To begin anywhere costs nothing that lies before if lengths are known: of the block that is
    begun in the middle only the rest is read.
    """
    length = _length(parts, spans)
    first = size if seed is None else 1 + int(np.random.default_rng(seed).integers(size))
    number = 0 if start < first else 1 + (start - first) // size
    begin = first + (number - 1) * size if number else 0
    records: Iterator[Record] | None = None
    while length is None or begin < length:
        end = first + number * size
        if length is None:
            records = records or _to_the_end(parts, spans, begin)
            block = list(islice(records, end - begin))
            order = _order(len(block), seed, number)[max(start - begin, 0) :]
            held = dict(enumerate(block))
        else:
            end = min(end, length)
            order = _order(end - begin, seed, number)[max(start - begin, 0) :]
            wanted = sorted(begin + place for place in order)
            records = records or _from(parts, spans, wanted, end)
            held = {place - begin: record for place, record in zip(wanted, records, strict=False)}
            assert len(held) == len(wanted)
        if not held:
            break
        for place in order:
            yield held.pop(place)
        begin, number = end, number + 1
    return max(start - (_length(parts, spans) or 0), 0)


def _order(n: int, seed: int | None, block: int) -> list[int]:
    return list(range(n)) if seed is None else _permuted(n, (seed, block)).tolist()


def _length(parts: Parts, spans: Sequence[Span]) -> int | None:
    stops = [parts.counts[s.part] if s.stop is None else s.stop for s in spans]
    ends = [stop for stop in stops if stop is not None]
    return sum(ends) - sum(s.start for s in spans) if len(ends) == len(stops) else None


def _from(parts: Parts, spans: Sequence[Span], wanted: Sequence[int], end: int) -> Iterator[Record]:
    """Read the places `wanted`, ascending and before `end`, and all from there on."""
    offset = 0
    for part, start, stop in spans:
        stop = parts.counts[part] if stop is None else stop
        assert stop is not None
        after = offset + stop - start
        some = [place - offset + start for place in wanted if offset <= place < after]
        rest = range(start + max(end - offset, 0), stop)
        if some or rest:
            yield from parts.read(part, chain(some, rest))
        offset = after


def _to_the_end(parts: Parts, spans: Sequence[Span], begin: int) -> Iterator[Record]:
    """Read all from a place on, where lengths are learnt on the way."""
    offset = 0
    for span in spans:
        known = parts.counts[span.part]
        if known is None or offset + known > begin:
            yield from parts.read(span.part, count(max(begin - offset, 0)))
            known = parts.counts[span.part]
        assert known is not None, "a part that was read to its end is of known length"
        offset += known
