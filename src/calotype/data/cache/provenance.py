"""What the rows of a cache were made of."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from calotype.data.cache.texts import as_arrays, from_arrays
from calotype.data.reading.captions import normal
from calotype.data.reading.records import Extent, Record

Arrays = dict[str, Tensor]


class Provenance(NamedTuple):
    """What a row was made of."""

    name: str
    """Of the picture within its source, in Unicode's normal form C."""
    stamp: str
    """What a changed picture of this name would not have, and is known without reading it: its
    size and time, say; empty where nothing is."""
    digest: str
    """Of what the picture's file holds, in 32 hexadecimal digits; of what has no file, of its
    name."""
    captions: tuple[str, ...]
    """Its captions, one or more."""


@dataclass(frozen=True)
class Listing:
    """What a shard was made of."""

    rows: Sequence[Provenance]
    """In the order of its rows."""
    broken: Sequence[Provenance] = ()
    """Pictures that were tried, could not be read and have no row."""
    reasons: Sequence[str] = ()
    """What is wrong with each of those."""
    places: Sequence[int] = ()
    """Of each of those, among all pictures of the shard in order."""

    def first(self, count: int) -> "Listing":
        """What a shard of the first of the pictures was made of."""
        broken = sum(place < count for place in self.places)
        return Listing(self.rows[: count - broken], self.broken[:broken], self.reasons[:broken],
                       self.places[:broken])  # fmt: skip

    def arrays(self) -> Arrays:
        """As tensors, to be stored; the broken ones behind the rows."""
        every = [*self.rows, *self.broken]
        digests = b"".join(bytes.fromhex(each.digest) for each in every)
        captions = [caption for each in every for caption in each.captions]
        counts = torch.tensor([len(each.captions) for each in every], dtype=torch.int64)
        return {
            "digests": torch.from_numpy(np.frombuffer(digests, np.uint8).copy()).view(-1, 16),
            "captions_each": counts.cumsum(0),
            **as_arrays("names", [each.name for each in every]),
            **as_arrays("stamps", [each.stamp for each in every]),
            **as_arrays("captions", captions),
            **as_arrays("reasons", self.reasons),
            "places": torch.tensor([*self.places], dtype=torch.int64),
        }

    @classmethod
    def of(cls, arrays: Arrays) -> "Listing":
        """What `arrays` gave."""
        names, stamps = (from_arrays(arrays, name) for name in ("names", "stamps"))
        captions, reasons = (from_arrays(arrays, name) for name in ("captions", "reasons"))
        digests = arrays["digests"].numpy().tobytes().hex()
        ends = [0, *arrays["captions_each"].tolist()]
        every = [
            Provenance(name, stamps[i], digests[32 * i : 32 * i + 32],
                       tuple(captions[ends[i] : ends[i + 1]]))
            for i, name in enumerate(names)
        ]  # fmt: skip
        rows = len(every) - len(reasons)
        return cls(every[:rows], every[rows:], reasons, arrays["places"].tolist())


def digest_of(content: bytes) -> str:
    """A digest as `Provenance` has them."""
    return hashlib.sha256(content).hexdigest()[:32]


def own_name(name: str, source: str) -> str:
    """A picture's name within its source, which may be moved: without the folder or the table that
    errors name before it, in a mixture with its source's number instead.

    Args:
        name: What errors call it.
        source: What errors call its source: a kind, and where it is.
    """
    if source.startswith(MIXTURE):
        # Sources may have pictures of one name, which are told apart by their number.
        parts = enumerate(source.removeprefix(MIXTURE).split("; "), start=1)
        inside = [(number, _inside(name, part)) for number, part in parts]
        number, found = min(inside, key=lambda each: len(each[1]))
        return normal(name if found == name else f"{number}/{found}")
    return normal(_inside(name, source))


MIXTURE = "mixture of "
"""How errors begin the name of several sources, which semicolons divide."""
PATTERN = re.compile(r"[*?\[{]")
"""How what stands for several files begins, in a path."""


def _inside(name: str, source: str) -> str:
    """A name without its source's folder, or without that of the source's file or files."""
    if name.startswith(source):
        return name[len(source) :].strip()
    where = _where(source)
    if where is None or "://" in name:
        return name
    path = os.path.normpath(name)
    beside = where.several or path.startswith((f"{where.path}:", f"{where.path} row "))
    for start in (where.inside, where.beside) if beside else (where.inside,):
        if start and path.startswith(start):
            return path[len(start) :].replace(os.sep, "/")
    return name


class _Where(NamedTuple):
    """Where a source is."""

    path: str
    several: bool
    """Whether that stands for several files."""
    inside: str
    """How names of what is in it begin, if it is a folder."""
    beside: str
    """How those begin that are in the folder that it is in; empty: in none that is said."""


@lru_cache(maxsize=64)
def _where(source: str) -> _Where | None:
    """Where a source is, by what errors call it; None: nowhere."""
    where = os.path.expanduser(source.partition(" ")[2])
    if not where:
        return None
    several = PATTERN.search(where)
    above = os.path.dirname(where[: several.start()] if several else where)
    beside = above and os.path.join(os.path.normpath(above), "")
    path = os.path.normpath(where)
    return _Where(path, several is not None, os.path.join(path, ""), beside)


def stamp_of(path: str | Path) -> str:
    """Size in bytes and time in nanoseconds of a file; empty where it cannot be had."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return stamped(found)


def stamp_of_record(record: Record, stamp: Callable[[str], str] = stamp_of) -> str:
    """What of a picture is known without reading it; of a table's, whose rows have no time, nothing
    is.

    Args:
        record: The picture.
        stamp: Gives that of a file.
    """
    match record.file:
        case _ if record.stamp:
            return record.stamp
        case Extent(path, offset, size):
            return f"{stamp(path)} {offset} {size}".lstrip()
        case Path():
            return stamp(str(record.file))
    return ""


def stamped(found: os.stat_result) -> str:
    """The same of a file that was looked up."""
    return f"{found.st_size} {found.st_mtime_ns}"
