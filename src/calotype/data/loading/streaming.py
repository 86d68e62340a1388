"""Batches of a stream, of which ranks and workers each read a share."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from math import lcm
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from calotype.data.loading.batches import Batch, collate, draw_keys, present
from calotype.data.loading.lanes import Lanes, Order, in_parts
from calotype.data.loading.worker_results import WorkerResult, worker_result
from calotype.data.reading.images import BrokenImage
from calotype.data.reading.records import Record
from calotype.data.streams import Stream, Window

Sample = dict[str, Any]


def lanes_of(stream: Stream, seed: int | None, step: int) -> Order:
    """How a run draws a stream.

    Args:
        stream: Which; by a method `draws(seed, lanes)` it may say its order itself.
        seed: Of the order; None: as the records lie, from one place.
        step: Samples of an optimiser step.
    """
    return ordered(stream, Lanes.of(1 if seed is None else stream.lanes, step), seed)


def ordered(stream: Stream, lanes: Lanes, seed: int | None) -> Order:
    """The order of `lanes_of`, in lanes that are laid out already."""
    own: Callable[[int, Lanes], Order] | None = getattr(stream, "draws", None)
    if own is not None and seed is not None:
        return own(seed, lanes)
    return in_parts(stream.source, lanes, seed, stream.buffer)


@dataclass(frozen=True)
class Share:
    """The batches of one rank, by the ordinals of their first samples: of each step as many
    consecutive ones as it accumulates.
    """

    position: int
    """Samples that all ranks together have had."""
    size: int
    """Samples of a batch."""
    rank: int
    world: int
    accumulate: int
    """Batches of a rank in an optimiser step."""

    @property
    def step(self) -> int:
        """Samples of an optimiser step."""
        return self.size * self.world * self.accumulate

    def start(self, number: int) -> int:
        """Ordinal of the first sample of a batch."""
        step, batch = divmod(number, self.accumulate)
        return self.position + step * self.step + (self.rank * self.accumulate + batch) * self.size


@dataclass
class StreamBatches(IterableDataset[WorkerResult]):
    """A rank's batches of a stream. Of n workers each gives every n-th, for DataLoader asks them in
    turn.
    """

    stream: Stream
    order: Order | None
    """What each lane gives; None: one pass in order."""
    share: Share
    seed: int
    transform: Callable[..., Sample]
    workers: int
    """Of the `Loader`."""

    @property
    def endless(self) -> bool:
        """Whether they are those of a run, and not of one pass."""
        return self.order is not None

    @property
    def processes(self) -> int:
        """Workers of the DataLoader. Of what is not local as many as share no lane: nothing is
        fetched twice, and threads of theirs make up for the rest.
        """
        if self.stream.local or not self.workers:
            return self.workers
        return next(n for n in range(self.workers, 0, -1) if n == 1 or self._apart(n))

    def _apart(self, workers: int) -> bool:
        """Whether so many would read different lanes."""
        if self.order is None:
            return False
        readers = defaultdict(set)
        for number in range(lcm(self._turns * self.share.accumulate, workers)):
            for lane in self._lanes(self.share.start(number)):
                readers[lane].add(number % workers)
        return all(len(found) == 1 for found in readers.values())

    @property
    def _turns(self) -> int:
        """Steps after which the lanes of the first come again."""
        assert self.order
        return self.order.lanes.turns

    def _lanes(self, start: int) -> set[int]:
        """Those that the batch from an ordinal on is drawn from."""
        assert self.order
        return {*map(self.order.lanes.lane, range(start, start + self.share.size))}

    def __iter__(self) -> Iterator[WorkerResult]:
        batches, source = self._batches(), self.stream.source
        source.news()  # what was learnt before is known
        while True:
            result = worker_result(lambda: next(batches, None), self.stream.reader)
            yield result._replace(learnt=tuple(source.news()))
            if result.batch is None:  # what was met behind the last batch is told too
                return

    def _batches(self) -> Iterator[Batch]:
        worker = get_worker_info() if self.workers else None
        first, each = (worker.id, worker.num_workers) if worker else (0, 1)
        threads = -(-self.workers // max(self.processes, 1)) or 1
        with ThreadPoolExecutor(threads) as pool:
            yield from self._read(pool, map(self.share.start, count(first, each)))

    def _read(self, pool: ThreadPoolExecutor, starts: Iterator[int]) -> Iterator[Batch]:
        """The batches from some ordinals on."""
        windows = _Windows(self.stream, self.order)
        for start in starts:
            if (batch := self._batch(pool, windows, start)) is None:
                return
            yield batch

    def _batch(self, pool: ThreadPoolExecutor, windows: "_Windows", start: int) -> Batch | None:
        keys = draw_keys(self.seed, start, self.share.size)
        jobs: list[tuple[Window, Record, int, Future[Sample]]] = []
        for ordinal, key in enumerate(keys, start=start):
            window = windows.at(ordinal)
            record = next(window, None)
            if record is None:  # the end of the pass
                break
            jobs.append((window, record, key, pool.submit(self._sample, record, key)))
        if not jobs:
            return None
        samples = [self._result(jobs, place) for place in range(len(jobs))]
        if self.order is None:
            return present(samples, keys[: len(jobs)], range(start, start + len(jobs)))
        return collate([sample for sample in samples if sample is not None], keys)

    def _sample(self, record: Record, key: int) -> Sample:
        example = self.stream.reader.decode(record)
        return self.transform(example, np.random.default_rng(key))

    def _result(
        self, jobs: list[tuple[Window, Record, int, Future[Sample]]], place: int
    ) -> Sample | None:
        window, record, key, future = jobs[place]
        try:
            return future.result()
        except BrokenImage:
            if self.order is None:  # one pass: nothing takes its place
                example = self.stream.reader.read_one(record)
                return example and self.transform(example, np.random.default_rng(key))
            # What its lane gives next takes its place, in whatever batch that is.
            records = [each for other, each, _, _ in jobs[place:] if other is window]
            example = self.stream.read(records, window)
            return self.transform(example, np.random.default_rng(key))


class _Windows:
    """The lanes that a process reads, each opened where it is first asked for."""

    def __init__(self, stream: Stream, order: Order | None) -> None:
        self.stream, self.order = stream, order
        self._open: dict[int, tuple[Window, int]] = {}

    def at(self, ordinal: int) -> Window:
        """The lane that gives a sample, at that sample."""
        lane = self.order.lanes.lane(ordinal) if self.order else 0
        place = self.order.lanes.before(ordinal, lane) if self.order else ordinal
        window, first = self._open.get(lane, (None, 0))
        between = place - first - window.taken if window else 0
        if window is None or (between and self.stream.source.seeks):
            window = Window(self._records(lane, place))
            self._open[lane] = window, place
        elif between:
            for _ in islice(window, between):
                pass
        return window

    def _records(self, lane: int, place: int) -> Iterator[Record]:
        if self.order is None:
            return self.stream.records(place)
        return self._endless(lane, place)

    def _endless(self, lane: int, place: int) -> Iterator[Record]:
        assert self.order
        yield from self.order.records(lane, place)
        raise self.stream.reader.nothing()  # a lane ends where there is nothing at all
