"""Tars as parts of a stream, and at random."""

import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from calotype.data.archives.tars import Endings, Index, grouped
from calotype.data.cache.provenance import stamp_of
from calotype.data.reading.captions import first_and_all
from calotype.data.reading.records import Reader, Record
from calotype.data.reading.steady import Steady
from calotype.data.streams import Parts, picked
from calotype.data.tabular.origin import broken

STRETCH = 128
"""Samples that lie beside each other in a tar and stay so when it is shuffled."""
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""How compressed tars begin."""
SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def packed_by(tar: str) -> str | None:
    """How a tar on disk is compressed, if it is."""
    with open(tar, "rb") as file:
        start = file.read(6)
    return next((name for mark, name in PACKED.items() if start.startswith(mark)), None)


def check_packed(tar: str) -> bool:
    """Whether a tar on disk is compressed.

    Raises:
        ValueError: by what this Python cannot read.
    """
    how = packed_by(tar)
    if how == "zstd" and sys.version_info < (3, 14):
        raise ValueError(
            f"{tar}: compressed by zstd, which Python reads from 3.14 on; unpack it (zstd -d)"
        )
    return how is not None


class TarsOnDisk(Parts):
    """Tars that are not compressed, in stretches of samples."""

    seeks = True

    def __init__(self, tars: Sequence[Index], endings: Endings) -> None:
        self.tars, self.endings = tars, endings
        self.stretches = [(tar, start) for tar, index in enumerate(tars)
                          for start in range(0, len(index), STRETCH)]  # fmt: skip
        counts = [min(STRETCH, len(tars[tar]) - start) for tar, start in self.stretches]
        super().__init__(counts, sum(counts))

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        tar, start = self.stretches[part]
        index, end = self.tars[tar], self.counts[part] or 0
        with open(index.tar, "rb") as file:
            for place in places:
                if place >= end:
                    return
                yield index.record(start + place, self.endings, file)


@dataclass(frozen=True)
class InTars(Sequence[Record]):
    """The same at random."""

    tars: Sequence[Index]
    endings: Endings
    ends: Int64[np.ndarray, " tars"]
    """How many samples there are up to the end of each."""

    def __len__(self) -> int:
        return int(self.ends[-1])

    def captions(self) -> Iterator[str]:
        """The first caption of each, in order; no picture is read for them."""
        for tar in self.tars:
            with open(tar.tar, "rb") as file:
                for sample in range(len(tar)):
                    yield first_and_all(tar.texts(sample, self.endings, file))[0]

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        tar = int(np.searchsorted(self.ends, index, "right"))
        first = int(self.ends[tar - 1]) if tar else 0
        with open(self.tars[tar].tar, "rb") as file:
            return self.tars[tar].record(index - first, self.endings, file)

    def paths(self) -> list[str]:
        """Files that they lie in."""
        return [tar.tar for tar in self.tars]


class StreamedTars(Parts):
    """Tars that are compressed or not on disk, each read from its start.

    Args:
        tars: Their paths or URLs.
        endings: What is read of them.
        reader: Hears of samples that are passed over.
    """

    counted = False

    def __init__(self, tars: Sequence[str], endings: Endings, reader: Reader) -> None:
        super().__init__([None] * len(tars), len(tars))
        self.tars, self.endings, self.reader = tars, endings, reader

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        records = self._records(self.tars[part])
        yield from picked(records, places, lambda length: self.learn(part, length))

    def _records(self, tar: str) -> Iterator[Record]:
        stamp = stamp_of(Path(tar)) if "://" not in tar else ""
        for number, sample in enumerate(grouped(self._members(tar), tar)):
            if (found := self.endings.picture(sample)) is None:
                self.reader.pass_over(sample.without("picture", tar))
                continue
            name, data = found
            named = f"{tar}:{name}"
            texts = self.endings.texts(self.endings.written(sample), named)
            if not texts and self.endings.skips:
                self.reader.pass_over(sample.without("caption", tar))
                continue
            yield Record(data, named, *first_and_all(texts), stamp and f"{stamp} {number}")

    def _members(self, tar: str) -> Iterator[tuple[str, bytes]]:
        """Read what is needed; of all else the names."""
        try:
            with Steady(tar) as file, tarfile.open(fileobj=file, mode="r|*") as members:
                for member in members:
                    members.members = []  # pyright: ignore[reportAttributeAccessIssue] (all would be kept)
                    if member.isreg():
                        wanted = self.endings.wants(member.name)
                        data = members.extractfile(member) if wanted else None
                        yield member.name, data.read() if data else b""
        except (tarfile.TarError, EOFError) as error:
            raise broken(tar, str(error)) from error
