"""What every stream of pictures shares: parts that are read in order."""

import copy
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, count, islice

from torch.utils.data import IterableDataset, get_worker_info

from calotype.data.identity import Identity
from calotype.data.reading.images import Decoding
from calotype.data.reading.records import Example, Reader, Record


class Window(Iterator[Record]):
    """Records in their order, with a look ahead at those that are not taken yet."""

    def __init__(self, records: Iterator[Record]) -> None:
        self.records, self.taken = records, 0
        self._seen: deque[Record] = deque()

    def __next__(self) -> Record:
        record = self._seen.popleft() if self._seen else next(self.records)
        self.taken += 1
        return record

    def ahead(self) -> Iterator[Record]:
        """Look at what follows, leaving it to be taken."""
        yield from tuple(self._seen)
        for record in self.records:
            self._seen.append(record)
            yield record


class Parts(ABC):
    """What a stream is read from: its parts in order, files or pieces of them.

    Args:
        counts: Records of each part; None: not known before it has been read to its end.
        lanes: Most places that may be read at once with little read twice.
    """

    counted: bool = True
    """Whether their lengths are known without reading."""
    seeks: bool = False
    """Whether to begin at a record costs nothing that lies before it."""

    def __init__(self, counts: Sequence[int | None], lanes: int) -> None:
        self.counts, self.lanes = list(counts), max(1, lanes)
        self._news: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def ends(self) -> list[int]:
        """How many records there are up to the end of each part, where that is known."""
        assert self.counted
        return list(accumulate(length or 0 for length in self.counts))

    @abstractmethod
    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:
        """Give the records of a part at these places, ascending; those past its end are not there.
        Nothing is opened before the first is asked for.

        Raises:
            ValueError: the part cannot be read.
        """

    def learn(self, part: int, length: int) -> None:
        """Keep what reading a part to its end has told."""
        if self.counts[part] is None:
            self.counts[part] = length
            self._news.append((part, length))

    def news(self) -> list[tuple[int, int]]:
        """Parts whose lengths were learnt since this was asked last, and these."""
        news, self._news = self._news, []
        return news


class Whole(Parts):
    """One part that is read from its start, such as what a generator gives.

    Args:
        records: Gives them all, the same each time.
    """

    counted = False

    def __init__(self, records: Callable[[], Iterator[Record]]) -> None:
        super().__init__([None], 1)
        self.records = records

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        yield from picked(self.records(), places, lambda length: self.learn(part, length))


def picked(
    records: Iterator[Record], places: Iterable[int], ended: Callable[[int], None]
) -> Iterator[Record]:
    """Give the records at these places, ascending; `ended` hears how many there are, if all are
    passed.
    """
    passed = 0
    for place in places:
        skipped = sum(1 for _ in islice(records, place - passed))
        record = next(records, None)
        if record is None:
            ended(passed + skipped)
            return
        yield record
        passed = place + 1


class Stream(IterableDataset[Example]):
    """A dataset that is read in order, in parts; iterating it is one pass in order, of which each
    worker of a plain DataLoader gives its share. A `Loader` reads it at several places at once,
    and divides these among ranks and workers.

    Under the policy "skip", a pass leaves out what is broken. In a `Loader`, whose samples have
    each their place, the next one in the order of reading that can be read takes it; past the end
    of the last pass, the first of another.

    Args:
        source: Its parts.
        reader: How records are decoded.
        lanes: Places that are read at once, if the parts allow as many.
        buffer: Records among which a `Loader` shuffles, over all lanes.
        local: Whether reading costs little beside decoding, so that a few parts may be read by
            several workers; else none is.
        identity: What tells its pictures from others; None: nothing.

    Raises:
        ValueError: `lanes` or `buffer` < 1.
    """

    def __init__(
        self,
        source: Parts,
        reader: Reader,
        *,
        lanes: int = 96,
        buffer: int = 1000,
        local: bool = False,
        identity: Identity | None = None,
    ) -> None:
        for name, value in (("lanes", lanes), ("shuffle_buffer", buffer)):
            if value < 1:
                raise ValueError(f"data.{name} is {value}: it must be at least 1")
        self.source, self.reader, self.local, self.identity = source, reader, local, identity
        self.lanes, self.buffer = min(lanes, source.lanes), buffer

    @property
    def parts(self) -> int:
        """Files, or pieces of files."""
        return len(self.source)

    def part(self, number: int) -> Iterator[Record]:
        """Give a part's records in order; a pass in order is one part after another."""
        return self.source.read(number, count())

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        which, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for place, record in enumerate(self.records()):
            if place % workers == which and (example := self.reader.read_one(record)):
                yield example

    def decoded_by(self, decoding: Decoding) -> "Stream":
        """The same pictures, decoded otherwise."""
        found = copy.copy(self)
        found.reader = self.reader.decoding_as(decoding)
        return found

    def records(self, start: int = 0) -> Iterator[Record]:
        """Give one pass in order, from a record on.

        Raises:
            ValueError: nothing is in it.
        """
        first = bisect_right(self.source.ends, start) if self.source.counted else 0
        offset = self.source.ends[first - 1] if first else 0
        for part in range(first, self.parts):
            length = self.source.counts[part]
            if length is None or offset + length > start:
                yield from self.source.read(part, count(max(start - offset, 0)))
                length = self.source.counts[part]
            assert length is not None, "a part that was read to its end is of known length"
            offset += length
        if not offset:
            raise self.reader.nothing()

    def apart(self, record: Record) -> int:
        """Of a pass in buckets: those for which this differs are in no batch together."""
        return 0

    def some(self, count: int) -> list[Record]:
        """So many records, the first."""
        return list(islice(self.records(), count))

    def read(self, records: Sequence[Record], window: Window) -> Example:
        """Decode the first that can be of `records`, taken from `window`, and all that follow."""
        return self.reader.read(chain(records, window.ahead(), self.records()))
