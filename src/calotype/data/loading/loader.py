"""The one loader: endless, seeded, resumable batches."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset, IterableDataset

from calotype.data.aspect.bucketed import Bucketed, check_weights
from calotype.data.aspect.buckets import Buckets
from calotype.data.aspect.sizes import sizes
from calotype.data.loading.batches import Batch, collate, draw_keys
from calotype.data.loading.order import InOrder, Order, order_of
from calotype.data.loading.plan import Plan
from calotype.data.loading.shaped import batches_of
from calotype.data.loading.streaming import Share, StreamBatches
from calotype.data.loading.worker_results import WorkerResult, received, worker_result
from calotype.data.loading.workers import let_the_run_end, opened
from calotype.data.reading.images import Decoding
from calotype.data.reading.records import Reader
from calotype.data.reading.transforms import as_is
from calotype.data.streams import Stream
from calotype.training.distributed import own_device
from calotype.training.division import shared
from calotype.training.progress import say

Transformation = Callable[..., dict[str, Any]]
"""Makes a sample of (example, numpy generator); see `Transform`."""

Draws = list[tuple[int, int]]
"""(index, key) of each sample of a batch."""


class Loader:
    """Endless, seeded, resumable batches.

    Sample j of a run, counted over all ranks from its start, is the same whatever the workers,
    ranks, micro-batches or restarts: the same example with the same key, which seeds its transform
    and may seed all else that is random about it. Of a stream that holds as long as a step has as
    many samples.

    A map-style dataset is drawn in a new order each epoch, each of its examples once; batches run
    across the ends of epochs. It starts anywhere at once. If it has a method
    `batch(indices, keys) -> dict`, and there is no transform, whole batches are read by that; if
    it has a method `draws(seed)`, it is drawn in that order (see `calotype.data.loading.order`).

    Where pictures come in buckets, by a transform that crops to `Buckets` or because rows of a
    cache are of several shapes, each step's samples, of all ranks and micro-batches, are of one
    bucket, as `Plan` says: sample j is the same as long as a step has as many samples.

    A `Stream` is read at several places at once, its lanes, and shuffled by its parts and within a
    buffer. Each step draws on `width` lanes, those of one turn of `turns`
    (`calotype.data.loading.lanes`): ranks read different ones if their number divides the width (8
    of 96), workers if theirs divides the turns (12); else some lanes are read by more than one. To
    start at a position reads nothing that lies before, but of a part that cannot be begun in the
    middle, which is a row group, a tar that is not on disk or is compressed, or a file that
    `datasets` streams. Unshuffled, it is one lane. Pictures of a stream are sorted into buckets as
    they come, and each batch is of one (`calotype.data.loading.shaped`): sample j is the same as
    long as a batch has as many samples, and as many batches, on whatever ranks, make a step.

    Args:
        dataset: Map-style, or a `Stream`.
        batch_size: Samples of an optimiser step, of all ranks and micro-batches.
        seed: Of the order and the keys; 0 or more.
        transform: Makes a sample of an example, with the generator of its key; None: pictures
            become tensors of 8 bits as they are.
        workers: Processes that read ahead, 0: none. Of a stream that is not local (the Hub's or a
            URL's) only so many that no two fetch the same; these have threads instead.
        shuffle: Draw in a random order, else in the dataset's.

    Raises:
        ValueError: the dataset is empty or of another kind, `batch_size` < 1 or `seed` < 0.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        seed: int,
        transform: Transformation | None = None,
        workers: int = 0,
        shuffle: bool = True,
    ) -> None:
        check_source(dataset, batch_size)
        if seed < 0:
            raise ValueError(f"seed: {seed} is not possible; choose 0 or more")
        self.dataset = arranged(dataset, transform)
        self.batch_size, self.seed = batch_size, seed
        self.transform, self.workers, self.shuffle = transform, workers, shuffle
        if isinstance(self.dataset, Bucketed):
            check_weights(dataset)
            say(self.dataset.said())

    @property
    def skipped(self) -> int:
        """Broken pictures of the dataset that were met so far, each counted once."""
        reader = reader_of(self.dataset)
        return len(reader.skipped) if reader else 0

    def batches(
        self, position: int = 0, rank: int = 0, world: int = 1, micro_batch: int | None = None
    ) -> Iterator[Batch]:
        """Give one rank's batches, without end.

        Batch k of rank r has the samples from `position + (k * world + r) * micro_batch` on; of a
        stream, those of a step lie beside each other.

        Args:
            position: Samples that all ranks together have had.
            rank: Of this process.
            world: Number of ranks.
            micro_batch: Samples of a batch, in so many parts of which the rank takes its share of a
                step; None: that share is one batch.

        Raises:
            ValueError: the ranks do not divide the batch, or it does not divide a rank's share.
        """
        share = shared(self.batch_size, world)
        size = micro_batch or share
        if share % size:
            raise ValueError(f"micro_batch: {size} does not divide a share of {share} samples")
        if isinstance(self.dataset, Stream):
            share = Share(position, size, rank, world, share // size)
            seed, transform = self.seed if self.shuffle else None, self.transform or as_is
            return stream_batches(
                batches_of(self.dataset, share, seed, self.seed, transform, self.workers)
            )
        starts = range(position + rank * size, sys.maxsize, world * size)
        draws = self._draws(starts, size)
        return map_batches(MapBatches(self.dataset, self.transform), draws, self.workers)

    def learnt(self) -> Int64[torch.Tensor, " parts"] | None:
        """What reading has told of where things are: the lengths of a stream's parts, -1 where they
        are not known; None: there is nothing to learn.
        """
        if not isinstance(self.dataset, Stream) or self.dataset.source.counted:
            return None
        counts = self.dataset.source.counts
        return torch.tensor([-1 if each is None else each for each in counts])

    def take_up(self, learnt: Int64[torch.Tensor, " parts"]) -> None:
        """Take up what `learnt` gave, before any batch."""
        assert isinstance(self.dataset, Stream)
        for part, length in enumerate(learnt.tolist()):
            if length >= 0:
                self.dataset.source.learn(part, length)

    def _draws(self, starts: range, size: int) -> Iterator[Draws]:
        order = self._order()
        for start in starts:
            keys = draw_keys(self.seed, start, size)
            yield list(zip(order(start, size).tolist(), keys, strict=True))

    def _order(self) -> Order:
        """In which order examples are drawn."""
        n, seed = length_of(self.dataset), self.seed if self.shuffle else None
        if buckets := buckets_of(self.dataset):
            return Plan(buckets, self.batch_size, seed)
        return InOrder(n) if seed is None else order_of(self.dataset, n, seed)


@dataclass
class MapBatches(Dataset[WorkerResult]):
    """A map-style dataset that is read by batches of draws."""

    dataset: Dataset[Any]
    transform: Transformation | None

    def __getitems__(self, draws: Draws) -> WorkerResult:
        """Read a batch; DataLoader's fetcher looks for this name."""
        return worker_result(lambda: self._batch(draws), reader_of(self.dataset))

    def _batch(self, draws: Draws) -> Batch:
        indices, keys = [index for index, _ in draws], [key for _, key in draws]
        batch = getattr(self.dataset, "batch", None)
        if batch is not None and self.transform is None:
            return {**batch(indices, keys), "key": keys}
        samples = [self._sample(index, key) for index, key in draws]
        return self._collated(samples, keys, indices)

    def _sample(self, index: int, key: int) -> dict[str, Any] | None:
        transform, example = self.transform or as_is, self._example(index)
        return None if example is None else transform(example, np.random.default_rng(key))

    def _example(self, index: int) -> dict[str, Any] | None:
        return self.dataset[index]

    def _collated(self, samples: list[Any], keys: list[int], indices: list[int]) -> Batch:
        return collate(samples, keys)


def map_batches(batches: MapBatches, draws: Iterable[Draws], workers: int) -> Iterator[Batch]:
    """Read batches of these draws."""
    results = DataLoader(batches, batch_sampler=draws, num_workers=workers, **_options())
    return received(opened(results), reader_of(batches.dataset))


def stream_batches(batches: StreamBatches) -> Iterator[Batch]:
    """Read batches of a stream."""
    results = DataLoader(batches, batch_size=None, num_workers=batches.processes, **_options())
    stream = batches.stream
    return received(opened(results), stream.reader, stream.source.learn, endless=batches.endless)


def arranged(dataset: Dataset[Any], transform: Transformation | None) -> Dataset[Any]:
    """The dataset, decoded as the transform wants it, in buckets where that crops to such."""
    crop = getattr(transform, "crop", None)
    if isinstance(dataset, Stream) or not isinstance(crop, Buckets):
        return _decoded(dataset, transform)
    return Bucketed(_decoded(dataset, transform), crop, sizes(dataset))


def buckets_of(dataset: Dataset[Any]) -> Sequence[Any] | None:
    """Indices of what may be in one batch, as `Plan` takes them; None: all may."""
    asked: Callable[[], Sequence[Any]] | None = getattr(dataset, "buckets", None)
    return asked() if asked else None


def reader_of(dataset: Dataset[Any]) -> Reader | None:
    """Who decodes the dataset's pictures; None: it is not known."""
    reader = getattr(dataset, "reader", None)
    return reader if isinstance(reader, Reader) else None


def _decoded(dataset: Dataset[Any], transform: Transformation | None) -> Dataset[Any]:
    """The dataset, its pictures decoded as the transform wants them."""
    decoding: Decoding | None = getattr(transform, "decoding", None)
    decoded_by = getattr(dataset, "decoded_by", None)
    return dataset if decoding is None or decoded_by is None else decoded_by(decoding)


def _options() -> dict[str, Any]:
    return {
        "collate_fn": _as_it_is,
        # Asked first, a process has its own device: pinning would take the first for it.
        "pin_memory": own_device().type == "cuda",
        "worker_init_fn": let_the_run_end,
        # DataLoader draws a seed for its workers; from here it does not move the run's generator.
        "generator": torch.Generator(),
    }


def _as_it_is(result: WorkerResult) -> WorkerResult:
    return result


def check_source(dataset: Dataset[Any], batch_size: int) -> None:
    """Refuse what cannot be read by batches.

    Raises:
        ValueError: it is empty or of another kind, or `batch_size` < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is not possible; choose 1 or more")
    if isinstance(dataset, Stream):
        return
    if isinstance(dataset, IterableDataset):
        kind = type(dataset).__name__
        raise ValueError(f"{kind}: only a Stream can be resumed; give its passes to one")
    if not length_of(dataset):
        raise ValueError(f"{type(dataset).__name__}: no examples in it")


def length_of(dataset: Dataset[Any]) -> int:
    """Examples of a map-style dataset."""
    return len(dataset)  # pyright: ignore[reportArgumentType] (map-style datasets have one)
