"""An index of a folder's pictures; on disk it is shared by all processes that read it."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from calotype.data.cache.provenance import stamp_of
from calotype.data.folders.layouts import Captions
from calotype.data.folders.survey import since
from calotype.data.tabular.arrow import Opened

HEADER, ROWS, FOLDERS, PASSED = "header.json", "rows.arrow", "folders.arrow", "passed.arrow"
"""Files of an index."""
FORGOTTEN_AFTER = 256
"""Pictures that are looked up before what was read for it counts no more as a process's memory:
each may bring a MiB with it."""


class Entry(NamedTuple):
    """Where a picture is, and what is said of it."""

    path: str
    """From the index's root."""
    text: str | None
    """Path of its text, from the root too."""
    captions: str | None
    """What metadata say of it, joined by `SEPARATOR`."""
    label: str
    """What its folder's name says of it."""


class Index(Sequence[Entry]):
    """The pictures of a folder, by their number.

    Args:
        root: The folder that their paths are counted from.
        files: Folder of the index's files, as `calotype.data.folders.indexing` writes them.
        mapped: Whether they stay, and are read in place.
    """

    def __init__(self, root: Path, files: Path, *, mapped: bool) -> None:
        self.root, self.files, self.mapped = root, files, mapped
        self.looked_up = 0
        self.header: dict[str, Any] = json.loads((files / HEADER).read_text())
        self._open()

    def _open(self) -> None:
        self.rows = Opened(self.files / ROWS, mapped=self.mapped)
        self.folders = Opened(self.files / FOLDERS, mapped=self.mapped)
        self.passed = Opened(self.files / PASSED, mapped=self.mapped)

    def __len__(self) -> int:
        return len(self.rows.table)

    def __getitem__(self, number: int) -> Entry:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.looked_up += 1
        if self.looked_up % FORGOTTEN_AFTER == 0:
            self.rows.forget()
        return self._entry(*(column[number].as_py() for column in self.rows.columns))

    def __iter__(self) -> Iterator[Entry]:
        for batch in self.rows.table.to_batches(max_chunksize=10_000):
            columns = (column.to_pylist() for column in batch.columns)
            yield from map(self._entry, *columns)
            self.rows.forget()

    def _entry(self, number: int, name: bytes, text: bytes | None, captions: bytes | None) -> Entry:
        folder, label = (column[number].as_py() for column in self.folders.columns[:2])
        return Entry(
            os.fsdecode(os.path.join(folder, name)),
            os.fsdecode(os.path.join(folder, text)) if text is not None else None,
            captions.decode() if captions is not None else None,
            label,
        )

    @property
    def layout(self) -> Captions:
        """Where captions come from."""
        return self.header["layout"]

    @property
    def told(self) -> list[str]:
        """What is to be said of the folder: what is passed over, and why."""
        return self.header["told"]

    def passed_over(self) -> Iterator[tuple[str, str]]:
        """Give each file that looks like a picture and is passed over, and why."""
        for batch in self.passed.table.to_batches():
            for row in batch.to_pylist():
                yield str(self.root / os.fsdecode(row["path"])), row["reason"]

    def identity(self) -> str:
        """What tells the pictures from others, as `of_files` says it."""
        return self.header["identity"]

    def is_true(self) -> bool:
        """Whether the folder is what it was: whether its folders and metadata files, and some of
        the pictures, have not changed since.
        """
        root = os.fsencode(self.root)
        for batch in self.folders.table.to_batches():
            for row in batch.to_pylist():
                if row["changed"] == -1 or row["changed"] != changed(root, row["path"]):
                    return False
        return all(stamp_of(self.root / path) == then for path, then in self.header["seen"])

    def __getstate__(self) -> dict[str, Any]:
        # A memory map does not travel to a worker.
        maps = ("rows", "folders", "passed") if self.mapped else ()
        return {name: value for name, value in self.__dict__.items() if name not in maps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.mapped:
            self._open()


def changed(root: bytes, folder: bytes) -> int:
    """When a folder was changed, as of `since`; -1 too if it is not there."""
    try:
        return since(os.stat(os.path.join(root, folder)))
    except OSError:
        return -1
