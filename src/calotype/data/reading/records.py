"""Records of pictures that are not decoded yet, and what becomes of broken ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict
from warnings import warn

from PIL import Image
from torch.utils.data import get_worker_info
from typing_extensions import NotRequired

from calotype.data.reading.images import TO_RGB, BrokenImage, Decoded, Decoding, decode
from calotype.data.reading.remote import contents, tried
from calotype.data.reading.removed import Removals

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
        return self.file if isinstance(self.file, Path) else self.contents()

    def fetched(self) -> "Record":
        """The same, with what is at its URL if it is far.

        Raises:
            BrokenImage: there is nothing.
        """
        return self._replace(file=self.encoded()) if isinstance(self.file, str) else self

    def _decoded(self, decoding: Decoding) -> Decoded:
        return decode(self.contents(), self.name, decoding)

    def contents(self) -> bytes | Image.Image:
        """The encoded picture, read or fetched; or the picture itself.

        Raises:
            BrokenImage: there is nothing at its URL.
        """
        if isinstance(self.file, Extent):
            return self.file.read()
        return self.file if isinstance(self.file, bytes | Image.Image) else contents(self.file)


class NoneReadError(ValueError):
    """Of pictures in a row none can be read."""


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
    removals: Removals = field(default_factory=Removals)
    """What filters removed as a stream was read."""

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

    def none_of(self, names: Sequence[str]) -> "NoneReadError":
        """Make the error of pictures of which none can be read."""
        return NoneReadError(
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

    def share(self, other: "Reader") -> None:
        """Have another source's reader tell what it meets through this one."""
        self.skipped.update(other.skipped)
        other.skipped, other.removals = self.skipped, self.removals

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
