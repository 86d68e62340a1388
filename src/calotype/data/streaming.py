"""Batches of a stream, by one process or by several in turn."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from calotype.data.batches import Batch, collate, draw_keys, epoch_seed
from calotype.data.images import BrokenImage
from calotype.data.pictures import Record, Stream, Window
from calotype.data.worker_results import WorkerResult, worker_result

Sample = dict[str, Any]


@dataclass(frozen=True)
class Epochs:
    """All passes of a stream, one after another, without end."""

    stream: Stream
    seed: int | None
    """Of the order; None: not shuffled."""

    def __iter__(self) -> Iterator[Record]:
        for epoch in count():
            yield from self.stream.records(
                None if self.seed is None else epoch_seed(self.seed, epoch)
            )


@dataclass
class StreamBatches(IterableDataset[WorkerResult]):
    """The batches of a stream that begin at given ordinals. Of n workers each gives every n-th, for
    DataLoader asks them in turn.

    What lies between is read but not decoded: to begin at ordinal j, and likewise to be one rank
    or one worker of many, costs reading all before it. In exchange every sample is what an
    uninterrupted single process would have seen.
    """

    stream: Stream
    order: Epochs | None
    """The records by their ordinals; None: one pass in order."""
    batch_size: int
    starts: range
    """Ordinal of the first sample of each batch."""
    seed: int
    transform: Callable[..., Sample]
    workers: int
    """Of the `Loader`: processes where the stream is local, else threads of one."""

    @property
    def processes(self) -> int:
        """Workers of the DataLoader."""
        return self.workers if self.stream.local else min(self.workers, 1)

    def __iter__(self) -> Iterator[WorkerResult]:
        batches, reader = self._batches(), self.stream.reader
        while (result := worker_result(lambda: next(batches, None), reader)).batch is not None:
            yield result

    def _batches(self) -> Iterator[Batch]:
        window = Window(iter(self.order or self.stream.records(None)))
        threads = 1 if self.stream.local else max(self.workers, 1)
        with ThreadPoolExecutor(threads) as pool:
            for start in self._share():
                deque(islice(window, start - window.taken), maxlen=0)
                if not (batch := self._batch(pool, window)):
                    return
                yield batch

    def _share(self) -> range:
        worker = get_worker_info() if self.workers else None
        return self.starts if worker is None else self.starts[worker.id :: worker.num_workers]

    def _batch(self, pool: ThreadPoolExecutor, window: Window) -> Batch | None:
        keys = draw_keys(self.seed, window.taken, self.batch_size)
        pairs = zip(islice(window, self.batch_size), keys, strict=False)  # the last may be short
        jobs = [(record, key, pool.submit(self._sample, record, key)) for record, key in pairs]
        records, keys = [job[0] for job in jobs], [job[1] for job in jobs]
        samples = [
            self._result(future, key, records[place:], window)
            for place, (_, key, future) in enumerate(jobs)
        ]
        return collate(samples, keys) if samples else None

    def _sample(self, record: Record, key: int) -> Sample:
        example = record.decode(self.stream.reader.decoding)
        return self.transform(example, np.random.default_rng(key))

    def _result(
        self, future: Future[Sample], key: int, records: list[Record], window: Window
    ) -> Sample:
        try:
            return future.result()
        except BrokenImage:
            example = self.stream.read(records, window)
            return self.transform(example, np.random.default_rng(key))
