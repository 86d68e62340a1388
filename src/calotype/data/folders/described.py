"""What all metadata files of a folder say, by the folders of the pictures."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from calotype.data.folders.metadata_files import EXPECTED, at, described
from calotype.data.folders.survey import Survey, files, in_order
from calotype.data.reading.captions import normal
from calotype.data.tabular.arrow import Opened, Writer
from calotype.lazy import pyarrow

SEPARATOR = "\0"
"""Between several captions; none has one in it."""


class Said(NamedTuple):
    """What a row says."""

    name: str
    captions: tuple[str, ...]


@contextmanager
def descriptions(root: Path, tables: Sequence[Path]) -> "Iterator[Descriptions]":
    """Read metadata files.

    Args:
        root: The folder that pictures' paths are counted from.
        tables: The files.

    Raises:
        FileNotFoundError: they name no picture.
        ValueError: a row cannot be read.
    """
    with TemporaryDirectory(prefix="calotype-") as scratch:
        file, folders, named = Path(scratch, "rows.arrow"), dict[str, int](), dict[str, int]()
        with Writer(file, folder="int32", name="binary", captions="binary", table="int32",
                    line="int32") as writer:  # fmt: skip
            for table, path in enumerate(tables):
                for line, picture, captions in described(path):
                    folder, name = os.path.split(_within(picture, root))
                    if (number := named.get(folder)) is None:
                        there = _on_disk(root, folder)
                        number = named[folder] = folders.setdefault(there, len(folders))
                    said = SEPARATOR.join(captions).encode() if captions else None
                    writer.add(number, os.fsencode(name), said, table, line)
        if not writer.count:
            raise FileNotFoundError(
                f"no images in {root}: its metadata name none; expected rows with {EXPECTED}"
            )
        yield Descriptions(root, tables, folders, Opened(file, mapped=True).table)


class Descriptions:
    """The rows of metadata files, in the order of the pictures. They lie on disk: there may be
    more than memory holds.

    Args:
        root: The folder that pictures' paths are counted from.
        tables: The metadata files.
        numbers: Of the pictures' folders.
        rows: In any order.
    """

    def __init__(
        self, root: Path, tables: Sequence[Path], numbers: dict[str, int], rows: "pyarrow.Table"
    ) -> None:
        self.root, self.tables, self._numbers, self._rows = root, tables, numbers, rows
        keys = [("folder", "ascending"), ("name", "ascending")]
        compute: Any = pyarrow.compute  # whose functions are made when it is imported
        self._order = compute.sort_indices(rows, sort_keys=keys)
        self._spans, start = dict[int, range](), 0
        counted = compute.value_counts(rows["folder"]).to_pylist()
        for each in sorted(counted, key=lambda each: each["values"]):
            self._spans[each["values"]] = range(start, start := start + each["counts"])

    def folders(self, survey: Survey) -> list[str]:
        """Folders of all pictures, those of which nothing is said too."""
        return in_order({*self._numbers, *survey.pictured})

    def of(self, folder: str) -> Iterator[Said]:
        """Give what is said of a folder's pictures, each found in it.

        Raises:
            FileNotFoundError: one is not there.
            ValueError: one may be either of two files.
        """
        if folder not in self._numbers:
            return
        place = self.root / folder
        there = files(place) if place.is_dir() else []
        names, called = set(there), _by_normal_form(there)
        for row in self._of(self._spans[self._numbers[folder]]):
            name, where = os.fsdecode(row["name"]), at(self.tables[row["table"]], row["line"])
            found = [name] if name in names else called.get(normal(name), [])
            if not found:
                raise FileNotFoundError(f"{where}: no file {place / name}")
            if len(found) > 1:
                raise ValueError(
                    f"{where}: {place / name} may be {found[0]!a} or {found[1]!a}, which "
                    "look the same; rename one"
                )
            said = row["captions"]
            captions = () if said is None else tuple(said.decode().split(SEPARATOR))
            yield Said(found[0], captions)

    def _of(self, span: range) -> Iterator[dict[str, Any]]:
        for first in span[::10_000]:
            places = self._order[first : min(first + 10_000, span.stop)]
            yield from self._rows.take(places).to_pylist()


def _within(picture: str, root: Path) -> str:
    """A picture's path from the root, if it is in it, else as it is."""
    return os.path.abspath(picture).removeprefix(os.path.join(os.path.abspath(root), ""))


def _on_disk(root: Path, folder: str) -> str:
    """A folder by its name on disk, which may be of another normal form."""
    if not (root / folder).is_dir() and folder:
        above, name = os.path.split(folder)
        above = _on_disk(root, above)
        there = os.listdir(root / above) if (root / above).is_dir() else []
        same = next((each for each in there if normal(each) == normal(name)), name)
        return os.path.join(above, same)
    return folder


def _by_normal_form(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if not name.isascii():
            found.setdefault(normal(name), []).append(name)
    return found
