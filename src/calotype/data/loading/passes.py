"""One pass over a dataset, in order."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, takewhile, tee
from itertools import count as counter
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from calotype.data.aspect.bucketed import in_buckets
from calotype.data.aspect.buckets import Buckets
from calotype.data.identity import identity
from calotype.data.loading.batches import Batch, keys_of, present
from calotype.data.loading.loader import (
    Draws,
    MapBatches,
    Transformation,
    arranged,
    buckets_of,
    check_source,
    length_of,
    map_batches,
    reader_of,
    stream_batches,
)
from calotype.data.loading.shaped import pass_of
from calotype.data.loading.streaming import Share
from calotype.data.pictures import spread
from calotype.data.reading.records import MAX_BROKEN, Reader
from calotype.data.reading.transforms import as_is
from calotype.data.streams import Stream
from calotype.training.agreement import agree_to_share
from calotype.training.distributed import processes


def once(
    dataset: Dataset[Any],
    batch_size: int,
    transform: Transformation | None = None,
    workers: int = 0,
    rows: range | Iterable[Sequence[int]] | None = None,
    may_be_empty: bool = False,
) -> Iterator[Batch]:
    """Give the batches of one pass in order, the last perhaps short; sample i has key i of seed 0.
    A picture that is broken, and skipped, is left out: "row" of a batch lists what its samples are
    in the dataset.
    Where pictures come in buckets, the batches of the fullest come first, and the last of each may
    be short.

    Args:
        dataset: Map-style, or a `Stream`.
        batch_size: Samples in a batch.
        transform: As of `Loader`.
        workers: As of `Loader`.
        rows: The part of a map-style dataset to read, step 1, or parts, one after another and
            asked for as they are needed, of each of which the last batch may be short; None: all.
        may_be_empty: Give nothing where none of its pictures can be read.

    Raises:
        ValueError: the dataset is empty or of another kind, `batch_size` < 1, `rows` of a
            stream, or none of its pictures can be read.
    """
    check_source(dataset, batch_size)
    dataset = arranged(dataset, transform)
    if isinstance(dataset, Stream):
        if rows is not None:
            raise ValueError("rows: a stream is read from its start")
        share = Share(0, batch_size, 0, 1, 1)
        batches = stream_batches(pass_of(dataset, share, transform or as_is, workers))
    else:
        draws = _draws(dataset, batch_size, rows)
        batches = map_batches(PassBatches(dataset, transform), draws, workers)
    return filter(None, batches) if may_be_empty else _not_empty(batches, reader_of(dataset))


class Turn(NamedTuple):
    """A batch of a pass."""

    first: int
    """Examples of the pass before it, broken ones too."""
    batch: Batch
    """Empty where all that it had is broken."""


def own_turns(
    dataset: Dataset[Any],
    batch_size: int,
    transform: Transformation | None = None,
    workers: int = 0,
    count: int | None = None,
) -> Iterator[Turn]:
    """Give the batches of a pass, as `once`, that are this rank's: of n ranks each has every n-th,
    the main process the first. What others have is not decoded.

    Args:
        dataset: As of `once`.
        batch_size: As of `once`.
        transform: As of `once`.
        workers: As of `once`.
        count: Examples of the pass, its first ones, broken ones too; None: all.

    Raises:
        ValueError: as of `once`; of several ranks none knows whether all is broken. On all ranks,
            they have other data.
    """
    check_source(dataset, batch_size)
    agree_to_share(pictures=lambda: getattr(dataset, "__len__", lambda: None)(),
                   data=lambda: identity(dataset))  # fmt: skip
    dataset, state = arranged(dataset, transform), processes()
    rank, world = state.process_index, state.num_processes
    if isinstance(dataset, Stream):
        share = Share(0, batch_size, rank, world, 1)
        firsts = map(share.start, counter())
        batches = stream_batches(pass_of(dataset, share, transform or as_is, workers, count))
    else:
        numbered = islice(_numbered(_draws(dataset, batch_size, None)), rank, None, world)
        places, own = tee(numbered)
        firsts = (first for first, _ in places)
        batches = map_batches(PassBatches(dataset, transform), (draws for _, draws in own), workers)
    # Of a stream in buckets batches may be short, and the pass is limited itself.
    if count is not None and not isinstance(getattr(transform, "crop", None), Buckets):
        firsts = takewhile(lambda first: first < count, firsts)
    turns = (Turn(*each) for each in zip(firsts, batches, strict=False))
    return _some_left(turns, count, reader_of(dataset), alone=world == 1)


def _some_left(
    turns: Iterable[Turn], count: int | None, reader: Reader | None, alone: bool
) -> Iterator[Turn]:
    found = False
    for first, batch in turns:
        kept = sum(count is None or row < count for row in batch.get("row", ()))
        found = found or kept > 0
        yield Turn(first, {name: values[:kept] for name, values in batch.items()} if kept else {})
        if not found and reader and len(reader.skipped) >= MAX_BROKEN:
            raise reader.none_of([*reader.skipped])
    if alone and not found and reader and reader.skipped:
        raise reader.none_of([*reader.skipped])


def _numbered(every: Iterable[Draws]) -> Iterator[tuple[int, Draws]]:
    first = 0
    for draws in every:
        yield first, draws
        first += len(draws)


def _draws(
    dataset: Dataset[Any], batch_size: int, rows: range | Iterable[Sequence[int]] | None
) -> Iterator[Draws]:
    """Indices and keys of the batches of a pass."""
    rows = range(length_of(dataset)) if rows is None else rows
    parts = [rows] if isinstance(rows, range) else rows
    if buckets := buckets_of(dataset):
        return chain.from_iterable(in_buckets(buckets, part, batch_size) for part in parts)
    spans = (part[i : i + batch_size] for part in parts for i in range(0, len(part), batch_size))
    return (list(zip(span, keys_of(span), strict=True)) for span in spans)


def some_of(
    dataset: Dataset[Any],
    count: int | None,
    transform: Transformation | None = None,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Batches of `count` pictures from all over a dataset, of a stream the first; None: of all.
    With no `batch_size` one, or one of each bucket.

    Raises:
        ValueError: as of `once`; neither `count` nor `batch_size` is given.
    """
    each = batch_size or count
    if each is None:
        raise ValueError("batch_size: of all pictures it must say how many are read at a time")
    left = count
    for batch in once(spread(dataset, count), each, transform):
        yield batch if left is None else {name: values[:left] for name, values in batch.items()}
        if left is not None and (left := left - len(batch["key"])) <= 0:
            return


class PassBatches(MapBatches):
    """Of one pass, which leaves out what is broken."""

    def _batch(self, draws: Draws) -> Batch:
        batch = super()._batch(draws)
        return batch and {"row": [index for index, _ in draws], **batch}

    def _example(self, index: int) -> dict[str, Any] | None:
        read_one = getattr(self.dataset, "read_one", None)
        return super()._example(index) if read_one is None else read_one(index)

    def _collated(self, samples: list[Any], keys: list[int], indices: list[int]) -> Batch:
        return present(samples, keys, indices)


def _not_empty(batches: Iterator[Batch], reader: Reader | None) -> Iterator[Batch]:
    """Those batches of a pass in which something is left.

    Raises:
        ValueError: there are none, or the first thousand pictures are broken.
    """
    found = False
    for batch in batches:
        found = found or bool(batch)
        if batch:
            yield batch
        elif not found and reader and len(reader.skipped) >= MAX_BROKEN:
            break
    if not found and reader and reader.skipped:
        raise reader.none_of([*reader.skipped])
