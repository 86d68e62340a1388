"""What every source of pictures shares: undecoded records, decoded when they are asked for."""

import copy
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain, count, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar
from warnings import warn

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from typing_extensions import NotRequired

from calotype.data.identity import Identity
from calotype.data.images import TO_RGB, BrokenImage, Decoded, Decoding, decode
from calotype.data.remote import contents, tried

OnError = Literal["skip", "stop"]
"""What becomes of a broken picture: it is passed over, so that in training, which has a place for
each sample, the next good one takes its; or reading stops."""

MAX_BROKEN = 1000
"""Broken pictures in a row after which a source is given up, under either policy."""


class Example(TypedDict):
    """A captioned picture."""

    image: Image.Image
    """RGB, or of the mode that was asked for; 8 bits."""
    caption: str
    """Empty if there is none; of several texts the first, or the one that a transform chose."""
    captions: NotRequired[tuple[str, ...]]
    """All texts, until a transform has chosen, of a picture that has several."""
    name: NotRequired[str]
    """What errors call it: a file's name; none of what is drawn."""
    size: NotRequired[tuple[int, int]]
    """Width and height of the whole picture, upright, before any crop."""
    reduction: NotRequired[int]
    """By how much the image was decoded smaller: see `Decoded`."""
    doubt: NotRequired[str]
    """What of the picture could not be heeded, if there is such."""


class Extent(NamedTuple):
    """Bytes of a file, such as a member of a tar."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Read them."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Record(NamedTuple):
    """A captioned picture that is not decoded yet."""

    file: bytes | Path | str | Image.Image | Extent
    """Encoded picture, its path, its URL (any that fsspec reads), a picture, or where one lies."""
    name: str
    """What errors call it."""
    caption: str
    captions: tuple[str, ...] = ()
    """All its texts where it has several, `caption` the first of them."""
    stamp: str = ""
    """What a changed picture of this name would not have, and is known without reading it; empty
    where nothing is."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Its captions, one or more."""
        return self.captions or (self.caption,)

    def decode(self, decoding: Decoding = TO_RGB) -> Example:
        """Decode it.

        Raises:
            BrokenImage: it cannot be decoded, or there is nothing at its URL.
            OSError: its file cannot be read, or there is not enough memory for it: whatever it
                holds, that is no fault of the picture.
        """
        image, size, reduction, doubt = tried(lambda: self._decoded(decoding), self.name)
        example: Example = {"image": image, "caption": self.caption, "name": self.name,
                            "size": size, "reduction": reduction}  # fmt: skip
        if doubt:
            example["doubt"] = doubt
        if len(self.captions) > 1:
            example["captions"] = self.captions
        return example

    def encoded(self) -> bytes | Path | Image.Image:
        """What is decoded, fetched if it is far."""
        return self.file if isinstance(self.file, Path) else self._fetched()

    def _decoded(self, decoding: Decoding) -> Decoded:
        return decode(self._fetched(), self.name, decoding)

    def _fetched(self) -> bytes | Image.Image:
        if isinstance(self.file, Extent):
            return self.file.read()
        return self.file if isinstance(self.file, bytes | Image.Image) else contents(self.file)


@dataclass
class Reader:
    """Decodes records under a policy for broken ones."""

    on_error: OnError
    source: str
    """What errors call the source."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Of each broken picture met so far its name and what is wrong with it; in the training
    process those that the workers of a `Loader` met too."""
    warns: bool = True
    """Off in such a worker: the training process hears of the pictures, and warns of each once."""
    decoding: Decoding = TO_RGB
    """What pictures become."""
    doubts: dict[str, str] = field(default_factory=dict)
    """What could not be heeded, of some pictures, and the name of the first of them."""

    def read(self, candidates: Iterable[Record]) -> Example:
        """Decode the first candidate that can be.

        Raises:
            BrokenImage: a broken picture was met and the policy is "stop".
            ValueError: none of the candidates, or of the first thousand, can be decoded.
        """
        broken: list[str] = []
        for record in islice(candidates, MAX_BROKEN):
            if (example := self.read_one(record)) is not None:
                return example
            broken.append(record.name)
        raise self.none_of(broken)

    def none_of(self, names: Sequence[str]) -> ValueError:
        """Make the error of pictures of which none can be read."""
        return ValueError(
            f"{self.source}: none of {len(names)} pictures in a row can be read; "
            f"{self.skipped[names[-1]]}"
        )

    def read_one(self, record: Record) -> Example | None:
        """Decode a record; None: it cannot be, and is passed over.

        Raises:
            BrokenImage: it cannot be, and the policy is "stop".
        """
        try:
            return self.decode(record)
        except BrokenImage as error:
            if self.on_error == "stop":
                raise
            self.skip(record.name, str(error))
        return None

    def decode(self, record: Record) -> Example:
        """Decode a record.

        Raises:
            BrokenImage: it cannot be.
        """
        example = record.decode(self.decoding)
        if doubt := example.pop("doubt", None):
            self.tell(doubt, record.name)
        return example

    def tell(self, doubt: str, name: str) -> None:
        """Warn of what could not be heeded, once."""
        if doubt not in self.doubts:
            self.doubts[doubt] = name
            if self.warns:
                warn(f"{name}: {doubt}; others like it are not named", stacklevel=2)

    def skip(self, name: str, reason: str) -> None:
        """Count a broken picture and warn of it, once."""
        if name not in self.skipped:
            self.skipped[name] = reason
            if self.warns:
                warn(f"skipped ({len(self.skipped)} so far): {reason}", stacklevel=2)

    def decoding_as(self, decoding: Decoding) -> "Reader":
        """One of the same source that decodes otherwise; both count what either skips."""
        return replace(self, decoding=decoding)

    def pass_over(self, reason: str) -> None:
        """Count what is no picture, or is not wanted; of a worker's the training process warns."""
        if get_worker_info() is None:
            self.skip(reason, reason)
        else:
            self.skipped.setdefault(reason, reason)

    def nothing(self) -> ValueError:
        """Make the error of a source without a single picture."""
        return ValueError(f"{self.source}: no pictures in it; expected one or more")


class Pictures(Dataset[Example]):
    """A map-style dataset of captioned pictures.

    Under the policy "skip", the place of a broken picture is taken by the next one in the
    dataset's order that can be read, so that what an index gives never depends on what was read
    before.

    Args:
        records: All of them.
        reader: How they are decoded.
        identity: What tells them from others; None: how many they are.

    Raises:
        ValueError: there are no records.
    """

    def __init__(
        self, records: Sequence[Record], reader: Reader, identity: Identity | None = None
    ) -> None:
        if not len(records):
            raise reader.nothing()
        self.records, self.reader, self._identity = records, reader, identity

    @property
    def is_known(self) -> bool:
        """Whether something tells its pictures from others but how many they are."""
        return self._identity is not None

    def identity(self) -> str:
        """What tells its pictures from others."""
        return self._identity() if self._identity else f"{len(self)} pictures"

    def decoded_by(self, decoding: Decoding) -> "Pictures":
        """The same pictures, decoded otherwise."""
        return _decoded_by(self, decoding)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"picture {index} of {n}")
        return self.reader.read(self.records[(index + k) % n] for k in range(n))

    def read_one(self, index: int) -> Example | None:
        """What an index of `records` has, and nothing in its place; None: it is broken.

        Raises:
            BrokenImage: it is, and the policy is "stop".
        """
        return self.reader.read_one(self.records[index])


@dataclass(frozen=True)
class Chosen(Sequence[Record]):
    """Some of a source's records."""

    records: Sequence[Record]
    places: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.records[int(self.places[index])]

    def captions(self) -> Iterable[str]:
        """The first caption of each, in order."""
        if not hasattr(self.records, "captions"):
            return (self[i].caption for i in range(len(self)))
        wanted = {int(place) for place in self.places}
        every = enumerate(captions_of_all(self.records))
        said = {place: caption for place, caption in every if place in wanted}
        return (said[int(place)] for place in self.places)


def spread(dataset: Dataset[Any], count: int | None) -> Dataset[Any]:
    """So many pictures from all over a dataset, which may be sorted by what is in them; None, or as
    many as there are: all. Of what is no `Pictures`, a stream or drawn scenes, it is all too.
    """
    if not isinstance(dataset, Pictures) or count is None or count >= len(dataset):
        return dataset
    places = [i * len(dataset) // count for i in range(count)]
    known = dataset.identity if dataset.is_known else None
    return Pictures(Chosen(dataset.records, places), dataset.reader, known)


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
        self.news: list[tuple[int, int]] = []

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
            self.news.append((part, length))


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
        return _decoded_by(self, decoding)

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

    def read(self, records: Sequence[Record], window: Window) -> Example:
        """Decode the first that can be of `records`, taken from `window`, and all that follow."""
        return self.reader.read(chain(records, window.ahead(), self.records()))


Pictured = TypeVar("Pictured", Pictures, Stream)


def _decoded_by(dataset: Pictured, decoding: Decoding) -> Pictured:
    found = copy.copy(dataset)
    found.reader = dataset.reader.decoding_as(decoding)
    return found


def captions_of_all(records: Sequence[Record]) -> Iterable[str]:
    """The first caption of each record in order, without its picture if the records can say them
    so, by a method `captions()`.
    """
    own: Callable[[], Iterable[str]] | None = getattr(records, "captions", None)
    return own() if own else (records[i].caption for i in range(len(records)))
