"""Pictures that know their place, so that those that are read are told from each other."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from PIL import Image

from calotype.data.aspect.bucketed import SHAPE, Bucketed
from calotype.data.aspect.buckets import Buckets, Shape
from calotype.data.cache.provenance import Provenance, digest_of, own_name, stamp_of_record
from calotype.data.pictures import Pictures
from calotype.data.reading.captions import captions_of
from calotype.data.reading.images import TO_RGB, BrokenImage, Decoding
from calotype.data.reading.records import Reader, Record
from calotype.data.reading.remote import tried
from calotype.data.reading.transforms import FRAME, as_is
from calotype.data.streams import Stream, Whole

Transformation = Callable[..., dict[str, Any]]
KEPT = ("place", "provenance", "broken")
"""What an example says of itself, whatever becomes of its picture."""


def provenance(record: Record, source: str, read: bool = True) -> Provenance:
    """What a row that is made of a picture is made of.

    Args:
        record: The picture.
        source: What errors call where it comes from.
        read: Whether its file is read for a digest; else that may be empty, if a stamp is known.

    Raises:
        ValueError: a caption has half a character.
        BrokenImage: it is read, and the server says that there is none.
    """
    file, stamp = record.file, stamp_of_record(record)
    if read or (isinstance(file, bytes) and not stamp):
        file = _held(record).file
    digest = digest_of(file) if isinstance(file, bytes) else ""
    return _made_of(record, source, stamp or digest, digest)


def _made_of(record: Record, source: str, stamp: str, digest: str) -> Provenance:
    name = own_name(record.name, source)
    if isinstance(record.file, Image.Image):  # drawn by its name, and by no file
        digest = digest_of(f"{name}\0{stamp}".encode())
    captions = captions_of(record.texts, f"caption of {record.name}")
    return Provenance(name, stamp, digest, captions)


def _held(record: Record) -> Record:
    """A picture with what its file, or its URL, holds, so that it is read once.

    Raises:
        BrokenImage: the server says that there is none.
    """
    if isinstance(record.file, bytes | Image.Image):
        return record
    return record._replace(file=tried(record.contents, record.name))


def all_known(records: Iterable[Record], source: str) -> list[Provenance]:
    """What is known of pictures before they are encoded. Those at URLs, of which nothing else tells
    whether they changed, are fetched, many at once; of one that is not there neither stamp nor
    digest is known.

    Args:
        records: The pictures.
        source: What errors call where they come from.
    """
    some = here(records, lambda record: not record.stamp)
    return [provenance(each, source, read=False) for each in some]


FETCHED = 32
"""Pictures that are fetched at once, to see whether they changed."""


def here(
    records: Iterable[Record], wanted: Callable[[Record], bool] = lambda record: True
) -> Iterator[Record]:
    """Records in order, those at URLs with what is there, fetched many at once; where nothing is,
    as they are.

    Args:
        records: The records.
        wanted: Whether one is to be fetched.
    """
    with ThreadPoolExecutor(FETCHED) as pool:
        ahead = deque[Record | Future[Record]]()
        for record in records:
            far = isinstance(record.file, str) and wanted(record)
            ahead.append(pool.submit(_here, record) if far else record)
            if len(ahead) > FETCHED:
                yield _result(ahead.popleft())
        yield from map(_result, ahead)


def _result(record: Record | Future[Record]) -> Record:
    return record.result() if isinstance(record, Future) else record


def _here(record: Record) -> Record:
    try:
        return tried(record.fetched, record.name)
    except BrokenImage:
        return record


class Placed(Record):
    """An undecoded picture and its place. One that cannot be decoded becomes a blank that says so,
    unless the policy is to stop: no other takes its place.
    """

    record: Record
    place: int
    reader: Reader
    """Of its source."""
    size: int
    """Pixels a side of the blank."""
    shape: Shape | None = None
    """What it is cropped to; None: what all are."""

    def fetched(self) -> "Placed":
        """The same, with what is at its URL if it is far; nothing, and decoding says so."""
        try:
            known = tried(self.record.fetched, self.name)
        except BrokenImage:
            return self
        found = Placed.of(known, self.place, self.reader, self.size)
        found.shape = self.shape
        return found

    @classmethod
    def of(cls, record: Record, place: int, reader: Reader, size: int) -> "Placed":
        """Give a record its place."""
        found = cls(*record)
        found.record, found.place, found.reader, found.size = record, place, reader, size
        return found

    def decode(self, decoding: Decoding = TO_RGB) -> Any:
        """Decode it; the example also has `place`, `provenance` and `broken`, what is wrong.

        Raises:
            BrokenImage: it cannot be, and the policy is to stop.
        """
        known, broken, stamp = self.record, "", stamp_of_record(self.record)  # before it is read
        try:
            known = _held(known)
            found = known.decode(decoding)
        except BrokenImage as error:
            if self.reader.on_error == "stop":
                raise
            blank = Image.new("RGB", (self.size, self.size))
            found, broken = known._replace(file=blank).decode(decoding), str(error)
        # A URL at which there is nothing holds nothing, and has no stamp: it may come back.
        there = known.file if isinstance(known.file, bytes) else None
        digest = digest_of(there or b"")
        stamp = stamp or ("" if there is None else digest)
        made = _made_of(known, self.reader.source, stamp, digest)
        shape = {SHAPE: self.shape} if self.shape else {}
        return {**found, **shape, "place": self.place, "provenance": made, "broken": broken}


@dataclass(frozen=True)
class PlacedRecords(Sequence[Record]):
    """A source's records, each with its place."""

    dataset: Pictures
    size: int
    bucketed: Bucketed | None = None
    """Says what each is cropped to; None: all to one shape."""

    def __len__(self) -> int:
        return len(self.dataset.records)

    def __getitem__(self, index: int) -> Placed:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = Placed.of(self.dataset.records[index], index, self.dataset.reader, self.size)
        found.shape = self.bucketed.shape(index) if self.bucketed else None
        return found


@dataclass(frozen=True)
class PlacedPart:
    """Some pictures of a stream's part, in order and each with its place in that."""

    stream: Stream
    part: int
    size: int
    wanted: Callable[[int], bool]
    """Whether the one at this place is."""
    limit: int | None = None
    """Pictures of the part that count; None: all."""

    def __call__(self) -> Iterator[Record]:
        """Give them."""
        for place, record in enumerate(self.stream.part(self.part)):
            if place == self.limit:
                return
            if self.wanted(place):
                yield Placed.of(record, place, self.stream.reader, self.size)


class PlacedStream(Stream):
    """A stream of some pictures, or none.

    Args:
        part: Gives them.
        stream: Where they are from.
        window: Places of a part whose pictures may be in a batch of one bucket together.
    """

    def __init__(self, part: PlacedPart, stream: Stream, window: int) -> None:
        super().__init__(Whole(part), stream.reader, local=stream.local)
        self.window = window

    def apart(self, record: Record) -> int:  # noqa: D102
        assert isinstance(record, Placed)
        return record.place // self.window

    def records(self, start: int = 0) -> Iterator[Record]:
        """Give one pass, from a record on."""
        yield from self.source.read(0, count(start))


@dataclass(frozen=True)
class Crops:
    """Some samples of each picture, in one tensor [crops, 3, H, W], or of one crop as it is. Their
    chance comes from what the picture's file holds, so that wherever it stands they are the same.
    """

    transform: Transformation | None
    count: int = 1
    frames: bool = False
    """Whether each sample says its frame, as `Transform.framed` does."""
    sorts: bool = False
    """Whether a reader is to sort pictures into its buckets."""

    @property
    def decoding(self) -> Any:
        """As its transform wants pictures decoded."""
        return getattr(self.transform, "decoding", None)

    @property
    def crop(self) -> Buckets | None:
        """The buckets that pictures are sorted into as they come; None: there are none, or where
        each goes is known before.
        """
        crop = getattr(self.transform, "crop", None)
        return crop if self.sorts and isinstance(crop, Buckets) else None

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Make a sample of a picture."""
        if made := example.get("provenance"):
            rng = np.random.default_rng(int(made.digest, 16))
        own: Any = self.transform
        transform = own.framed if self.frames else own or as_is
        samples = [transform(example, rng) for _ in range(self.count)]
        kept = {name: example[name] for name in KEPT if name in example}
        if self.count == 1:
            return {**samples[0], **kept}
        stacked = {name: torch.stack([each[name] for each in samples])
                   for name in ("image", FRAME) if name in samples[0]}  # fmt: skip
        return {**samples[0], **kept, **stacked}
