"""A file that is read piece by piece, from a disk, a server or a bucket: what may pass is tried
again, from where it went wrong.
"""

import io
import os
from contextlib import suppress
from types import TracebackType
from typing import Any

import fsspec

from calotype.data.reading.remote import check, options_of, tried

PASSED = 2**20
"""Bytes that are read at once to pass them over."""


class Steady(io.RawIOBase):
    """Such a file, opened for reading in bytes.

    Args:
        file: Its path or URL.

    Raises:
        ImportError: a library for such URLs is not installed.
        OSError: it cannot be read, after some tries.
        ValueError: there are no such URLs.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.name, self.place, self._open = file, 0, None
        options = options_of(check(file)) if "://" in file else {}
        self.system, self.path = fsspec.url_to_fs(file, **options)
        tried(self._opened, file)

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def tell(self) -> int:  # noqa: D102
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:  # noqa: D102
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place}
        self.place = offset + (start[whence] if whence in start else self.size())
        return self.place

    def size(self) -> int:
        """Bytes of all of it.

        Raises:
            ValueError: the server does not say.
        """
        size = tried(lambda: self.system.size(self.path), self.name)
        if size is None:
            raise ValueError(f"{self.name}: the server does not say its size; download it first")
        return size

    def read(self, size: int = -1) -> bytes:  # noqa: D102
        data = tried(lambda: self._read(size), self.name)
        self.place += len(data)
        return data

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:  # noqa: D102
        self._drop()
        super().close()

    def __enter__(self) -> "Steady":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _read(self, size: int) -> bytes:
        try:
            return self._opened().read(size)
        except Exception:
            self._drop()  # what failed once may be of no more use
            raise

    def _opened(self) -> Any:
        """The file at its place."""
        file = self._open = self._open or self.system.open(self.path, "rb")
        if file.tell() != self.place:
            with suppress(ValueError):  # a server that gives all or nothing cannot go elsewhere
                file.seek(self.place)
            while left := self.place - file.tell():
                if left < 0 or not file.read(min(left, PASSED)):
                    raise OSError(f"ends before byte {self.place}")
        return file

    def _drop(self) -> None:
        file, self._open = self._open, None
        if file is not None:
            with suppress(Exception):  # it is given up
                file.close()
