"""Batches of a stream, each of one bucket, though no size is known before its picture comes.

The records of a lane are taken by a roomful, of which the headers are read (`Room`). The order is a
function of the seed and the position alone, as any is, and a run that is resumed reads the rooms
again that it was in, and nothing before. A batch of one rank is of one bucket, and not a step: for
that each rank would have to read what the others do. So sample j is the same whatever the workers
and restarts, and on as many ranks as there were micro-batches, but not in batches of another size.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, groupby, islice

import numpy as np

from calotype.data.aspect.bucketed import SHAPE
from calotype.data.aspect.buckets import Buckets, Shape
from calotype.data.aspect.rooms import Group, Room, measured
from calotype.data.loading.batches import Batch, collate, draw_keys, epoch_seed, keys_of, present
from calotype.data.loading.lanes import TURNS, Lanes, power_of_two
from calotype.data.loading.streaming import Sample, Share, StreamBatches, lanes_of, ordered
from calotype.data.reading.images import BrokenImage
from calotype.data.reading.records import Record
from calotype.data.streams import Stream

ROOM = 8
"""Batches of a room, at least: fewer would leave of most buckets too few pictures for one."""


def batches_of(
    stream: Stream, share: Share, seed: int | None, keys: int, transform: Callable[..., Sample],
    workers: int,
) -> StreamBatches:  # fmt: skip
    """A rank's batches of a run; where the transform crops to buckets, each is of one.

    Args:
        stream: What is drawn.
        share: What the rank has of it.
        seed: Of the order; None: as the records lie.
        keys: Seed of the samples' keys.
        transform: Makes a sample of an example.
        workers: Of the `Loader`.
    """
    crop = getattr(transform, "crop", None)
    if not isinstance(crop, Buckets):
        order = lanes_of(stream, seed, share.step)
        return StreamBatches(stream, order, share, keys, transform, workers)
    lanes = _lanes(stream, share) if seed is not None else Lanes(1, 1, share.step // share.size)
    batches = max(ROOM, stream.buffer // (len(lanes) * share.size))
    order = ordered(stream, Lanes(1, len(lanes), len(lanes)), seed)
    return ShapedBatches(stream, order, share, keys, transform, workers, crop, lanes, batches, seed)


def _lanes(stream: Stream, share: Share) -> Lanes:
    """Laid out for batches, for each comes whole from one lane. Each has a roomful in memory: there
    are as many as ranks need to read different ones, and more if the buffer allows them.
    """
    batches, rooms = share.step // share.size, stream.buffer // (ROOM * share.size)
    width = power_of_two(min(stream.lanes, batches))
    fit = (turns for turns in TURNS if turns * width <= min(stream.lanes, rooms))
    return Lanes(next(fit, 1), width, batches)


def pass_of(
    stream: Stream, share: Share, transform: Callable[..., Sample], workers: int,
    limit: int | None = None,
) -> StreamBatches:  # fmt: skip
    """A rank's batches of one pass in order; where the transform crops to buckets, each is of one,
    and of the records only so many are sorted as `limit` says.
    """
    crop = getattr(transform, "crop", None)
    if isinstance(crop, Buckets):
        return ShapedPass(stream, None, share, 0, transform, workers, crop, limit)
    return StreamBatches(stream, None, share, 0, transform, workers)


@dataclass
class _Shaped(StreamBatches):
    crop: Buckets

    def _sorted(
        self, pool: ThreadPoolExecutor, records: list[Record]
    ) -> list[tuple[Record, Shape] | None]:
        reader = self.stream.reader
        return [*pool.map(lambda record: measured(record, self.crop, reader), records)]

    def _shaped(self, record: Record, shape: Shape, key: int) -> Sample:
        example = {**self.stream.reader.decode(record), SHAPE: shape}
        return self.transform(example, np.random.default_rng(key))


@dataclass
class ShapedBatches(_Shaped):
    """Batches of one bucket each, of a run."""

    lanes: Lanes
    """Of batches; the order's, as many, are of records."""
    each: int
    """Batches of a room."""
    drawn: int | None
    """Seed of what rooms draw; None: nothing."""

    @property
    def _turns(self) -> int:
        return self.lanes.turns

    def _lanes(self, start: int) -> set[int]:
        return {self.lanes.lane(start // self.share.size)}

    def _read(self, pool: ThreadPoolExecutor, starts: Iterator[int]) -> Iterator[Batch]:
        rooms: dict[int, _Lane] = {}
        for start in starts:
            number = start // self.share.size
            lane = self.lanes.lane(number)
            block, place = divmod(self.lanes.before(number, lane), self.each)
            if lane not in rooms or rooms[lane].block != block:
                rooms[lane] = self._room(pool, lane, block, rooms.get(lane))
            keys = draw_keys(self.seed, start, self.share.size)
            yield collate(self._samples(pool, rooms[lane].room, place, keys), keys)

    def _room(
        self, pool: ThreadPoolExecutor, lane: int, block: int, before: "_Lane | None"
    ) -> "_Lane":
        assert self.order
        size = self.each * self.share.size
        if before and before.block == block - 1:
            records = before.records
        else:
            records = self.order.records(lane, block * size)
        some, reader = [*islice(records, size)], self.stream.reader
        if len(some) < size:
            raise reader.nothing()  # a lane ends where there is nothing at all
        if not (found := [each for each in self._sorted(pool, some) if each]):
            raise reader.none_of([record.name for record in some])
        rng = None
        if self.drawn is not None:
            rng = np.random.default_rng(epoch_seed(epoch_seed(self.drawn, lane), block))
        return _Lane(block, records, Room(found, self.each, self.share.size, rng))

    def _samples(
        self, pool: ThreadPoolExecutor, room: Room, number: int, keys: list[int]
    ) -> list[Sample]:
        group = room.batches[number]
        jobs = [pool.submit(self._shaped, record, group.shape, key)
                for record, key in zip(group.records, keys, strict=True)]  # fmt: skip
        return [
            self._settled(job, room, group, place, keys[place]) for place, job in enumerate(jobs)
        ]

    def _settled(
        self, job: Future[Sample], room: Room, group: Group, place: int, key: int
    ) -> Sample:
        """The sample; of a broken picture, the next of its bucket in the room that can be read, or
        of any, which is cropped to it.
        """
        try:
            return job.result()
        except BrokenImage:
            instead = [*group.others(place), *room.records]
            example = self.stream.reader.read([group.records[place], *instead])
            return self.transform({**example, SHAPE: group.shape}, np.random.default_rng(key))


@dataclass(frozen=True)
class _Lane:
    """Where a process is in a lane."""

    block: int
    """Number of the room."""
    records: Iterator[Record]
    """What comes behind it."""
    room: Room


@dataclass
class ShapedPass(_Shaped):
    """One pass: a bucket gives a batch as soon as it has pictures for one, and what is left in the
    end, the fullest first. Every rank sorts all pictures, by their headers, and decodes its own
    batches.
    """

    limit: int | None
    """Records of the pass, the first ones; None: all."""

    @property
    def processes(self) -> int:
        """One: to be sorted, pictures are read by one process; threads of it decode them."""
        return min(self.workers, 1)

    def _read(self, pool: ThreadPoolExecutor, starts: Iterator[int]) -> Iterator[Batch]:
        places, number = count(), 0
        for _, records in groupby(islice(self.stream.records(), self.limit), self.stream.apart):
            for shape, some in self._together(pool, records, places):
                if number % self.share.world == self.share.rank:
                    yield self._present(pool, shape, some)
                number += 1

    def _together(
        self, pool: ThreadPoolExecutor, records: Iterator[Record], places: Iterator[int]
    ) -> Iterator[tuple[Shape, list[tuple[int, Record]]]]:
        """What is in each batch: the bucket, and records with their places."""
        waiting: dict[Shape, list[tuple[int, Record]]] = {}
        size = self.share.size
        while some := [*islice(records, size)]:
            for found, place in zip(self._sorted(pool, some), places):  # noqa: B905 (they go on)
                if found is None:
                    continue
                waiting.setdefault(found[1], []).append((place, found[0]))
                if len(waiting[found[1]]) == size:
                    yield found[1], waiting.pop(found[1])
        for shape in sorted(waiting, key=lambda shape: len(waiting[shape]), reverse=True):
            yield shape, waiting[shape]

    def _present(
        self, pool: ThreadPoolExecutor, shape: Shape, some: list[tuple[int, Record]]
    ) -> Batch:
        places = [place for place, _ in some]
        keys = keys_of(places)
        jobs = [pool.submit(self._shaped, record, shape, key)
                for (_, record), key in zip(some, keys, strict=True)]  # fmt: skip
        found = [self._read_or_left(job, record)
                 for job, (_, record) in zip(jobs, some, strict=True)]  # fmt: skip
        return present(found, keys, places)

    def _read_or_left(self, job: Future[Sample], record: Record) -> Sample | None:
        try:
            return job.result()
        except BrokenImage:
            self.stream.reader.read_one(record)  # which says so, or stops
            return None
