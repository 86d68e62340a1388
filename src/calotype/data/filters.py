"""A source without the pictures that are too small, too long, said wrongly or there already."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from itertools import count

import numpy as np

from calotype.data.archives.webdataset import WebDataset
from calotype.data.digits import Digits
from calotype.data.folders.folder import Folder
from calotype.data.identity import Identity
from calotype.data.nested import opened
from calotype.data.openmoji import OpenMoji
from calotype.data.pictures import Pictures
from calotype.data.reading.looks import Row, alike, look_of, size_of, survey
from calotype.data.reading.records import Reader, Record
from calotype.data.reading.removed import NAMED, News, Tally, line_of
from calotype.data.streams import Parts, Stream, picked
from calotype.data.tabular.tables import Hub, Parquet
from calotype.training.progress import say

Listed = Digits | Folder | Parquet | Hub | WebDataset | OpenMoji
"""Sources that list pictures and are made of no other source."""


@dataclass(frozen=True)
class Filtered:
    """A source without some of its pictures. What is removed is said by name, and counted.

    Pictures that cannot be read stay, and meet the source's policy for them when they are drawn.

    Raises:
        ValueError: a bound is not possible.
    """

    source: Listed = field(default_factory=lambda: Folder("images"))
    least_side: int | None = None
    """Pixels of a picture's shorter side, at least."""
    greatest_ratio: float | None = None
    """Times that the longer side has the shorter one's length, at most."""
    words: tuple[int, int] | None = None
    """Words of a caption, at least and at most; of several captions those that fit are left."""
    duplicates: int | None = None
    """Of pictures that look alike all but the first are removed: perceptual hashes may differ in so
    many of 64 bits; 0 finds copies of other sizes, 4 slightly changed ones."""

    def __post_init__(self) -> None:
        for name, least in (("least_side", 1), ("greatest_ratio", 1), ("duplicates", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"data.{name} is {value}: it must be at least {least}")
        if self.duplicates is not None and self.duplicates > 16:
            raise ValueError(f"data.duplicates is {self.duplicates}: choose 16 of the 64 bits or "
                             "fewer, or pictures would be removed that are not alike")  # fmt: skip
        if self.words is not None and not 0 <= self.words[0] <= self.words[1]:
            raise ValueError(
                f"data.words is {self.words}: give the least and the greatest number, such as 3 60"
            )

    def build(self) -> "FilteredPictures | Stream":
        """Open the source, look at its pictures, and say what is removed. For duplicates all are
        decoded, for sizes their headers read; both are kept in the user's cache for the next time.

        Raises:
            ValueError: nothing is left, or duplicates are looked for in a stream; or as of the
                source.
        """
        dataset = opened("source", self.source.build)
        if isinstance(dataset, Stream):
            return self._stream(dataset)
        filtered = FilteredPictures(dataset, self)
        for line in filtered.lines():
            say(line)
        return filtered

    def said(self) -> str:
        """The bounds that are set, in words."""
        bounds = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        return ", ".join(f"{name} {value}" for name, value in bounds.items() if value is not None)

    def left_of(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a picture's captions that fit."""
        if self.words is None:
            return texts
        least, most = self.words
        return tuple(text for text in texts if least <= len(text.split()) <= most)

    def refused(self, size: Row) -> str | None:
        """Why a picture of this width and height is removed; None: it is not."""
        short, long = min(size), max(size)
        if not short:
            return None
        if self.least_side is not None and short < self.least_side:
            return f"shorter side under {self.least_side} pixels"
        if self.greatest_ratio is not None and long > self.greatest_ratio * short:
            return f"longer than {self.greatest_ratio:g}:1"
        return None

    @property
    def asks_for_size(self) -> bool:
        """Whether pictures' sizes matter."""
        return self.least_side is not None or self.greatest_ratio is not None

    @property
    def wording(self) -> str:
        """Why a picture whose captions do not fit is removed."""
        least, most = self.words or (0, 0)
        return f"no caption of {least} to {most} words"

    def _stream(self, stream: Stream) -> Stream:
        if self.duplicates is not None:
            raise ValueError(
                f"{stream.reader.source}: duplicates are not found in a stream, which is not in "
                "memory: choose --data.source.no-streaming, or leave --data.duplicates away"
            )
        filtered = copy(stream)
        filtered.source = FilteredParts(stream.source, self, stream.reader)
        filtered.lanes = min(stream.lanes, filtered.source.lanes)
        if stream.identity is not None:
            filtered.identity = partial(_identity, "filtered by", self, stream.identity)
        say(f"{stream.reader.source}: filtered as it is read, by {self.said()}")
        return filtered


def _identity(how: str, spec: Filtered, source: Identity) -> str:
    return f"{how} {spec.said()}; {source()}"


class FilteredPictures(Pictures):
    """Pictures that a filter has left.

    Args:
        dataset: All of them.
        spec: The filter.

    Raises:
        ValueError: none are left.
    """

    def __init__(self, dataset: Pictures, spec: Filtered) -> None:
        self.source, self.spec = dataset, spec
        self.removed: dict[str, array[int]] = {}
        """Places in the source of what was removed, by the reason."""
        self.like: dict[int, int] = {}
        """Of each that looks like another, the place of that one."""
        left = self._alone(self._sized(self._worded(range(len(dataset)))))
        if not left:
            raise ValueError(" ".join(self.lines()) + ": nothing is left; choose wider bounds")
        records = Left(dataset.records, left, spec)
        gone = "; ".join(f"{len(places)} {why}" for why, places in self.removed.items())
        how = f"{len(left)} of {len(dataset)} pictures, removed: {gone or 'none'}, filtered by"
        known = partial(_identity, how, spec, dataset.identity)
        super().__init__(records, dataset.reader, known if dataset.is_known else None)

    def lines(self) -> list[str]:
        """What was removed, in words."""
        gone = sum(map(len, self.removed.values()))
        n = len(self.source)
        lines = [f"{self.source.reader.source}: {n - gone} of {n} pictures are left"]
        return lines + [f"  {self._line(why, places)}" for why, places in self.removed.items()]

    def names(self, places: Iterable[int]) -> Iterator[str]:
        """Names of pictures of the source."""
        return (self.source.records[place].name for place in places)

    def _line(self, why: str, places: Sequence[int]) -> str:
        named = list(self.names(places[:NAMED]))
        if self.like and places[0] in self.like:
            first = self.source.records[self.like[places[0]]].name
            named[0] = f"{named[0]} is like {first}"
        return line_of(why, named, len(places))

    def _worded(self, places: Sequence[int]) -> Sequence[int]:
        if self.spec.words is None:
            return places
        records, left_of, why = self.source.records, self.spec.left_of, self.spec.wording
        return self._without(places, lambda i: None if left_of(records[i].texts) else why)

    def _sized(self, places: Sequence[int]) -> Sequence[int]:
        if not self.spec.asks_for_size:
            return places
        sizes = survey(self.source, "sizes", size_of)
        refused = lru_cache(self.spec.refused)  # of very many pictures most are of a few sizes
        return self._without(places, lambda i: refused(tuple(sizes[i].tolist())))

    def _alone(self, places: Sequence[int]) -> Sequence[int]:
        if self.spec.duplicates is None:
            return places
        looks = survey(self.source, "looks", look_of)
        found = alike(looks[np.asarray(places, np.int64)], self.spec.duplicates)
        self.like = {places[later]: places[first] for later, first in found.items()}
        return self._without(places, lambda i: "like another" if i in self.like else None)

    def _without(self, places: Sequence[int], why: Callable[[int], str | None]) -> Sequence[int]:
        left = array("q")
        for place in places:
            if (reason := why(place)) is None:
                left.append(place)
            else:
                self.removed.setdefault(reason, array("q")).append(place)
        return left


@dataclass(frozen=True)
class Left(Sequence[Record]):
    """What a filter has left of a source's records."""

    records: Sequence[Record]
    places: Sequence[int]
    spec: Filtered

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _with(self.records[self.places[index]], self.spec)


class FilteredParts(Parts):
    """A stream's parts without what a filter removes; how long they are only reading tells.

    Args:
        source: The stream's parts.
        spec: The filter.
        reader: Hears of what is removed.
    """

    counted = False

    def __init__(self, source: Parts, spec: Filtered, reader: Reader) -> None:
        # Parts of unknown length are dealt whole: a lane without one would give nothing for ever.
        super().__init__([None] * len(source), min(source.lanes, len(source)))
        self.source, self.spec, self.reader = source, spec, reader

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        yield from picked(self._left(part), places, lambda length: self.learn(part, length))

    def _left(self, part: int) -> Iterator[Record]:
        note, tally = self.reader.removals.note, Tally()
        news = News(self.reader.source, len(self), part, tally, whole=False)
        for record in self.source.read(part, count()):
            tally.add(record.name, why := self._refused(record))
            note(news)
            if why is None:
                yield _with(record, self.spec)
        note(news._replace(whole=True))

    def _refused(self, record: Record) -> str | None:
        if not self.spec.left_of(record.texts):
            return self.spec.wording
        return self.spec.refused(size_of(record)) if self.spec.asks_for_size else None


def _with(record: Record, spec: Filtered) -> Record:
    """A record with the captions that fit."""
    if not record.captions:
        return record
    texts = spec.left_of(record.captions)
    return record._replace(caption=texts[0], captions=texts)
