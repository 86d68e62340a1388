"""Pictures in tars, grouped as WebDataset's own tools group them: `<key>.jpg`, `<key>.txt`.

Not by the `webdataset` of Hugging Face's `datasets`: that one takes the columns of the first five
samples for those of all. A tar on disk is looked through once, by its headers; its pictures are
read where they lie.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar
from warnings import warn

import numpy as np
from jaxtyping import Int64

from calotype.data.cache.provenance import stamp_of
from calotype.data.reading.captions import Uncaptioned, captions_of, first_and_all
from calotype.data.reading.records import Extent, Record
from calotype.data.reading.remote import tried
from calotype.data.tabular.origin import broken

NAME = re.compile(r"((?:.*/|)[^.]+)\.([^/]*)")
"""The key, up to the first dot of the file's name, and the ending."""
META = re.compile(r"__[^/]*__($|/)")
"""Members that describe the tar."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sample(Generic[T]):
    """Members that share a key, each by its ending in lower case: its name, and what it is."""

    key: str
    members: dict[str, tuple[str, T]]

    def without(self, what: str, tar: str) -> str:
        """Why it is passed over: it has no picture, or no caption."""
        return f"no {what} in sample {tar}:{self.key}; it has .{', .'.join(sorted(self.members))}"


def grouped(members: Iterable[tuple[str, T]], tar: str) -> Iterator[Sample[T]]:
    """Group neighbours with one key. Names that begin with a dot, or have none, are not read.

    Raises:
        ValueError: two members of a sample differ in nothing, or in upper case alone.
    """
    sample: Sample[T] | None = None
    for name, value in members:
        found = None if META.match(name) else NAME.fullmatch(name)
        if found is None:
            continue
        key, ending = found[1], found[2].lower()
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = Sample(key, {})
        if ending in sample.members:
            raise ValueError(
                f"{tar}: {sample.members[ending][0]} and {name} are one member of one sample; "
                "rename one of them, or leave it out"
            )
        sample.members[ending] = (name, value)
    if sample is not None:
        yield sample


@dataclass(frozen=True)
class Endings:
    """Which members of a sample are its picture and its caption."""

    images: tuple[str, ...]
    """Of several, the first that is there is taken."""
    caption: str | None
    json_field: str
    """Field of the caption in a caption that is JSON."""
    uncaptioned: Uncaptioned

    def wants(self, name: str) -> bool:
        """Whether a member may be needed."""
        return name.lower().endswith(tuple(f".{each}" for each in self.needed))

    @property
    def needed(self) -> tuple[str, ...]:
        """All that may be read."""
        return (*self.images, *([self.caption] if self.caption else []))

    def picture(self, sample: Sample[T]) -> tuple[str, T] | None:
        """The member that is its picture, if there is one."""
        return next((sample.members[e] for e in self.images if e in sample.members), None)

    def written(self, sample: Sample[T]) -> T | None:
        """The member that may hold its caption, if there is one."""
        return sample.members.get(self.caption, ("", None))[1] if self.caption else None

    @property
    def in_json(self) -> bool:
        """Whether captions are fields of JSON, which may be there without one."""
        return self.caption is not None and self.caption.split(".")[-1] == "json"

    @property
    def skips(self) -> bool:
        """Whether pictures without a caption are passed over."""
        return self.caption is not None and self.uncaptioned == "skip"

    @property
    def what(self) -> str:
        """What a picture without a caption has not."""
        return f".{self.caption}{f' with the field {self.json_field}' if self.in_json else ''}"

    def texts(self, data: bytes | None, name: str) -> tuple[str, ...]:
        """The captions in a member; none: it has none.

        Args:
            data: What it holds; None: there is no such member.
            name: What errors call the picture.

        Raises:
            ValueError: there are none and that is refused, or one is no text, or is broken.
        """
        where = f"caption of {name}"
        value = _field(data, self.json_field, where) if data is not None and self.in_json else data
        found = tuple(text.strip() for text in captions_of(value, where))
        if not found and self.caption and self.uncaptioned == "refuse":
            raise ValueError(
                f"{name}: no {self.what} beside it; add it, or let such pictures have the caption "
                "'' by --data.uncaptioned empty"
            )
        return found


def _field(data: bytes, field: str, where: str) -> Any:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: JSON without fields; expected one called {field}")
    return found.get(field)


@dataclass(frozen=True)
class Index:
    """Where the samples of a tar lie."""

    tar: str
    places: Int64[np.ndarray, "n 4"]
    """Offset and size of the picture and of the caption, of which a size of -1 says that there is
    none; a picture of size -2 lies in pieces, and its offset is that of its header."""
    names: bytes
    """Of the pictures, one behind the other."""
    ends: Int64[np.ndarray, " n"]
    """Of the names."""
    endings: Mapping[str, int]
    """What else there is: of each ending how many members."""
    bare: Sequence[str]
    """Why other samples are passed over."""
    stamp: str
    """Size and time of the tar when it was looked through."""

    def __len__(self) -> int:
        return len(self.places)

    def name(self, sample: int) -> str:
        """What errors call a picture."""
        start = self.ends[sample - 1] if sample else 0
        return f"{self.tar}:{self.names[start : self.ends[sample]].decode(errors='replace')}"

    def record(self, sample: int, endings: Endings, tar: IO[bytes]) -> Record:
        """A picture of the tar, which is open.

        Raises:
            OSError: the tar cannot be read.
            ValueError: as `Endings.texts` does.
        """
        offset, size, _, _ = self.places[sample].tolist()
        name, texts = self.name(sample), self.texts(sample, endings, tar)
        file = Extent(self.tar, offset, size) if size >= 0 else _in_pieces(self.tar, offset)
        stamp = f"{self.stamp} {offset} {size}" if self.stamp else ""
        return Record(file, name, *first_and_all(texts), stamp)

    def texts(self, sample: int, endings: Endings, tar: IO[bytes]) -> tuple[str, ...]:
        """Captions of a picture of the tar, which is open.

        Raises:
            OSError: the tar cannot be read.
            ValueError: as `Endings.texts` does.
        """
        name, (_, _, place, length) = self.name(sample), self.places[sample].tolist()
        data = tried(lambda: _held(tar, place, length), name) if length >= 0 else None
        return endings.texts(data, name)


def indexed(tar: str, endings: Endings) -> Index:
    """Look through a tar on disk by its headers.

    Raises:
        ValueError: it is broken or cut off; the message names it.
    """
    stamp = stamp_of(Path(tar))  # before it is read
    rows: list[tuple[int, int, int, int]] = []
    names: list[bytes] = []
    there: dict[str, int] = {}
    bare: list[str] = []
    for sample in grouped(_headers(tar), tar):
        for ending in sample.members:
            there[ending] = there.get(ending, 0) + 1
        if (found := endings.picture(sample)) is None:
            bare.append(sample.without("picture", tar))
            continue
        name, picture = found
        text = _caption(endings, sample, tar, name)
        if text is None and endings.skips:
            bare.append(sample.without("caption", tar))
            continue
        place, length = (text.offset_data, text.size) if text else (0, -1)
        sparse = picture.issparse()
        offset, size = (picture.offset, -2) if sparse else (picture.offset_data, picture.size)
        rows.append((offset, size, place, length))
        names.append(name.encode(errors="surrogateescape"))
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    places = np.array(rows, np.int64).reshape(-1, 4)
    return Index(tar, places, b"".join(names), ends, there, bare, stamp)


def _caption(
    endings: Endings, sample: Sample[tarfile.TarInfo], tar: str, picture: str
) -> tarfile.TarInfo | None:
    """The member that holds a caption; JSON is read for it."""
    text = endings.written(sample)
    if text is None or not endings.in_json:
        return text
    where = f"{tar}:{picture}"
    data = tried(Extent(tar, text.offset_data, text.size).read, where)
    return text if endings.texts(data, where) else None


def _held(tar: IO[bytes], place: int, size: int) -> bytes:
    tar.seek(place)
    return tar.read(size)


def _headers(tar: str) -> Iterator[tuple[str, tarfile.TarInfo]]:
    try:
        with tarfile.open(tar, "r:") as members:
            while (member := members.next()) is not None:
                members.members.clear()  # pyright: ignore[reportAttributeAccessIssue] (or all were kept)
                if member.isreg():
                    yield member.name, member
            _check_end(tar, members.offset)
    except (tarfile.TarError, EOFError) as error:
        raise broken(tar, str(error)) from error


def _check_end(tar: str, end: int) -> None:
    """See that a tar is whole: `tarfile` takes half a header for its end."""
    size = os.path.getsize(tar)
    if size < end or 0 < size - end < tarfile.BLOCKSIZE:
        raise broken(tar, "unexpected end of data")
    if size == end:
        warn(f"{tar}: ends without the mark of a tar's end; it may be cut off", stacklevel=2)


def _in_pieces(tar: str, header: int) -> bytes:
    """Read a sparse member, of which a tar keeps what is not zero."""
    with tarfile.open(tar, "r:") as members:
        members.offset = header
        member = members.next()
        file = member and members.extractfile(member)
        return file.read() if file else b""
