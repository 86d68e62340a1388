"""Tables on disk that are longer than memory: written row by row, read in place."""

import mmap
from pathlib import Path
from types import TracebackType
from typing import Any

from calotype.lazy import pyarrow

BATCH = 65_536
"""Rows that are held in memory while a table is written."""


class Writer:
    """Writes an Arrow file.

    Args:
        file: Where.
        columns: Their types by name, as Arrow calls them.
    """

    def __init__(self, file: Path, **columns: str) -> None:
        types = {name: pyarrow.type_for_alias(kind) for name, kind in columns.items()}
        self.file, self.schema = file, pyarrow.schema(types)
        self.count = 0
        self._rows: list[tuple[Any, ...]] = []

    def __enter__(self) -> "Writer":
        self._sink = pyarrow.OSFile(str(self.file), "wb")
        self._writer = pyarrow.ipc.new_file(self._sink, self.schema)
        return self

    def add(self, *row: Any) -> None:
        """Write a row: a value of each column, or None."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == BATCH:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if error is None:
            self._flush()
        self._writer.close()
        self._sink.close()

    def _flush(self) -> None:
        if self._rows:
            values = zip(*self._rows, strict=True)
            arrays = [pyarrow.array(v, f.type) for v, f in zip(values, self.schema, strict=True)]
            self._writer.write_batch(pyarrow.record_batch(arrays, schema=self.schema))
            self._rows = []


class Opened:
    """An Arrow file to read.

    Args:
        file: Which.
        mapped: Whether it is read in place, without memory of its own, or into memory.
    """

    def __init__(self, file: Path, *, mapped: bool) -> None:
        self._map: mmap.mmap | None = None
        if mapped:
            with file.open("rb") as opened:
                self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        source = pyarrow.py_buffer(self._map if self._map is not None else file.read_bytes())
        self.table = pyarrow.ipc.open_file(source).read_all()
        self.columns = self.table.columns

    def forget(self) -> None:
        """Count nothing that was read as this process's memory; the system still has it at hand,
        for all that read the file.
        """
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
