"""Mixtures in which a source is a stream: each lane of the mixture takes in turn from a lane of
every source, so that ranks and workers read different parts of all of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, count
from typing import Any

import numpy as np

from calotype.data.identity import Identity, digest
from calotype.data.loading.lanes import Lanes, Order, in_parts
from calotype.data.loading.order import Order as Draws
from calotype.data.loading.order import Turns, order_of, part_seed, shares
from calotype.data.pictures import Pictures
from calotype.data.reading.records import Reader, Record
from calotype.data.splits import Spread
from calotype.data.streams import Parts, Stream

MOST = 2**20
"""Parts at most in which listed pictures are shuffled: each is one picture if there are no more."""
AHEAD = 256
"""Draws of a lane of which it is found out at once from which source they are."""


class MixedStream(Stream):
    """Several sources of which one or more are streams, drawn by weights.

    It has the lanes of the stream that has fewest. Of each source a lane is read as if the source
    were read alone; where the lanes have come equally far, its epochs go round, each picture once.

    Args:
        datasets: One or more, of one policy for broken pictures.
        weights: One for each; none: every picture of all of them once an epoch, and the length of
            each must be known.
        reader: Decodes records of all of them.
    """

    def __init__(
        self, datasets: Sequence[Pictures | Stream], weights: Sequence[float], reader: Reader
    ) -> None:
        streams = [dataset for dataset in datasets if isinstance(dataset, Stream)]
        counted = all(stream.source.counted for stream in streams)
        super().__init__(
            InARow([_parts(dataset, counted) for dataset in datasets]), reader,
            lanes=min(stream.lanes for stream in streams),
            buffer=sum(stream.buffer for stream in streams),
            local=all(stream.local for stream in streams), identity=_identity(datasets, weights),
        )  # fmt: skip
        self.datasets, self.weights = tuple(datasets), tuple(weights)

    def draws(self, seed: int, lanes: Lanes) -> Order:
        """The order in which they are drawn; see `calotype.data.loading.lanes`."""
        if not self.weights:
            return in_parts(self.source, lanes, seed, self.buffer)
        seeds = [part_seed(seed, k) for k in range(len(self.datasets) + 1)]
        each = [_order(*some, lanes) for some in zip(self.datasets, seeds, strict=False)]
        readers = [dataset.reader for dataset in self.datasets]
        return InTurns(lanes, each, readers, shares(self.weights), seeds[-1])

    def some(self, count: int) -> list[Record]:
        """As many records of each source as of the others: of a stream the first, else from all
        over it.
        """
        each = -(-count // len(self.datasets))
        found = (dataset.some(each) if isinstance(dataset, Stream) else
                 [dataset.records[i] for i in Spread(len(dataset), min(each, len(dataset)))]
                 for dataset in self.datasets)  # fmt: skip
        return [*chain.from_iterable(found)][:count]


@dataclass(frozen=True)
class InTurns(Order):
    """Lanes that take from several sources in turn."""

    sources: Sequence[Order]
    readers: Sequence[Reader]
    """Theirs."""
    shares: Sequence[int]
    """Draws of each source in a block."""
    seed: int

    def records(self, lane: int, start: int) -> Iterator[Record]:
        """Give a lane's records from its start-th on.

        Raises:
            ValueError: nothing is in a source.
        """
        turns = Turns(self.shares, part_seed(self.seed, lane))
        had = turns.had(start).tolist()
        each = [source.records(lane, n) for source, n in zip(self.sources, had, strict=True)]
        for begin in count(start, AHEAD):
            for k in turns(begin, AHEAD).tolist():
                record = next(each[k], None)
                if record is None:
                    raise self.readers[k].nothing()
                yield record


@dataclass(frozen=True)
class Listed(Order):
    """Listed pictures in lanes, each picture as often as the order of their draws has it."""

    listed: Sequence[Record]
    draws: Draws

    def records(self, lane: int, start: int) -> Iterator[Record]:  # noqa: D102
        for some in self.lanes.ordinals(lane, start):
            for place in self.draws(some.start, len(some)).tolist():
                yield self.listed[place]


def _order(dataset: Pictures | Stream, seed: int, lanes: Lanes) -> Order:
    if isinstance(dataset, Stream):
        return in_parts(dataset.source, lanes, seed, dataset.buffer)
    return Listed(lanes, dataset.records, order_of(dataset, len(dataset), seed))


class ListedParts(Parts):
    """Listed pictures as parts of a stream, of so many each."""

    seeks = True

    def __init__(self, records: Sequence[Record], each: int) -> None:
        self.records, self.each = records, each
        starts = range(0, len(records), self.each)
        super().__init__([min(self.each, len(records) - start) for start in starts], len(records))

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        start, end = part * self.each, self.counts[part] or 0
        for place in places:
            if place >= end:
                return
            yield self.records[start + place]


def _parts(dataset: Pictures | Stream, apart: bool) -> Parts:
    """What a dataset is read from; listed pictures each for itself, or as they lie."""
    if isinstance(dataset, Stream):
        return dataset.source
    return ListedParts(dataset.records, -(-len(dataset) // MOST) if apart else len(dataset))


class InARow(Parts):
    """The parts of several sources, one source behind the other."""

    def __init__(self, sources: Sequence[Parts]) -> None:
        self.sources = sources
        self.starts = [0, *accumulate(map(len, sources))]
        counts = list(chain.from_iterable(source.counts for source in sources))
        super().__init__(counts, sum(source.lanes for source in sources))
        self.counted = all(source.counted for source in sources)
        self.seeks = all(source.seeks for source in sources)

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        source, own = self._own(part)
        yield from source.read(own, places)
        self.counts[part] = source.counts[own]

    def learn(self, part: int, length: int) -> None:  # noqa: D102
        source, own = self._own(part)
        source.learn(own, length)
        self.counts[part] = length

    def news(self) -> list[tuple[int, int]]:  # noqa: D102
        each = zip(self.sources, self.starts, strict=False)
        return [(start + part, length) for source, start in each for part, length in source.news()]

    def _own(self, part: int) -> tuple[Parts, int]:
        """The source of a part, and the part's number in it."""
        k = int(np.searchsorted(self.starts, part, "right")) - 1
        return self.sources[k], part - self.starts[k]


def _identity(datasets: Sequence[Any], weights: Sequence[float]) -> Identity | None:
    known = [each.identity for each in datasets if not isinstance(each, Pictures) or each.is_known]
    return partial(_says, known, weights) if all(known) and len(known) == len(datasets) else None


def _says(known: Sequence[Identity], weights: Sequence[float]) -> str:
    drawn = ":".join(map(str, shares(weights))) if weights else "all alike"
    return f"mixed {drawn}, {digest(each() for each in known)}"
