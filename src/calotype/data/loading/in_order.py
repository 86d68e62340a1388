"""Streams whose parts are of known length, read as if they were listed, or in larger parts."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import chain, count
from typing import Any

from torch.utils.data import Dataset

from calotype.data.pictures import Pictures
from calotype.data.reading.records import Record
from calotype.data.streams import Parts, Stream, picked


class ByNumber(Sequence[Record]):
    """Records of a stream by their number. In ascending order, whatever is left out, a part is
    opened once; to go back opens it anew.

    Args:
        source: The stream's parts, of known length.
        name: What errors call the stream.
    """

    def __init__(self, source: Parts, name: str) -> None:
        self.source, self.name = source, name
        self._close()

    def __len__(self) -> int:
        return self.source.ends[-1] if self.source.ends else 0

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        index = range(len(self))[index]
        part = bisect_right(self.source.ends, index)
        place = index - (self.source.ends[part - 1] if part else 0)
        # What a process opened is not for one that it forked: both would move through one file.
        if self._opened != (os.getpid(), part) or place <= self._place:
            self._opened, self._records = (os.getpid(), part), self.source.read(part, self._asked())
        self._place = place
        if (record := next(self._records, None)) is None:
            raise ValueError(f"{self.name}: changed while it was read; start again")
        return record

    def _asked(self) -> Iterator[int]:
        """The places in the part, as they are asked for."""
        while True:
            yield self._place

    def _close(self) -> None:
        self._opened, self._place = (0, 0), -1
        self._records: Iterator[Record] = iter(())

    def __getstate__(self) -> dict[str, Any]:
        """All but what is open."""
        return {"source": self.source, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.source, self.name = state["source"], state["name"]
        self._close()


class Gathered(Parts):
    """Neighbouring parts of known length as one, up to a length; a longer one stays as it is.

    Args:
        source: The parts.
        most: Records of a larger part.
    """

    def __init__(self, source: Parts, most: int) -> None:
        self.source, starts, length = source, list[int](), 0
        for part, more in enumerate(source.counts):
            if not starts or (length and length + (more or 0) > most):
                starts.append(part)
                length = 0
            length += more or 0
        self.starts = [*starts, len(source)]
        super().__init__([sum(each or 0 for each in source.counts[first:last])
                          for first, last in zip(starts, self.starts[1:], strict=True)],
                         source.lanes)  # fmt: skip

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        numbers = range(self.starts[part], self.starts[part + 1])
        records = chain.from_iterable(self.source.read(number, count()) for number in numbers)
        yield from picked(records, places, lambda length: self.learn(part, length))


def in_order(dataset: Dataset[Any], most: int) -> Dataset[Any]:
    """A stream as it is read once: where its length is known, on disk as listed pictures, and from
    afar, where none is to be fetched twice, in parts of so many records; else, and what is no
    stream, as it is.
    """
    if not isinstance(dataset, Stream) or not dataset.source.counted:
        return dataset
    if dataset.local:
        records = ByNumber(dataset.source, dataset.reader.source)
        return Pictures(records, dataset.reader, dataset.identity)
    found = copy(dataset)
    found.source = Gathered(dataset.source, most)
    return found
