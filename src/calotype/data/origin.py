"""Which file of a table cannot be read: `datasets` raises nearly anything, and names no file."""

import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Any

from calotype.data.identity import Identity, of_files
from calotype.lazy import datasets, pyarrow


@dataclass(frozen=True)
class Origin:
    """Where a table comes from, as errors say it."""

    name: str
    expected: str
    """What can be read."""
    files: tuple[str, ...] = ()
    """The files it is made of, if they are known."""
    read: Callable[[str], Iterable[Any]] = iter
    """Reads one of them to its end, by its format's own reader."""
    local: bool = False
    """Whether it is read from paths, and not from the Hub or a URL."""

    @property
    def identity(self) -> Identity | None:
        """What tells its files from others; None: they are not at hand."""
        return partial(of_files, self.files) if self.files and self.local else None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Make one line of whatever `datasets` raises at what it cannot read.

        Raises:
            ValueError: something was raised; the message names the file and the reason.
        """
        try:
            yield
        except Exception as error:
            # Of files that it copies, `datasets` says only that there was an error.
            hidden = isinstance(error, datasets.exceptions.DatasetGenerationError)
            reason = _reason((hidden and error.__cause__) or error)
            if file := next(filter(self._is_broken, self.files), None):
                raise _broken(file, reason) from error
            raise ValueError(
                f"{self.name}: cannot be read ({reason}); expected {self.expected}"
            ) from error

    def _is_broken(self, file: str) -> bool:
        if "://" in file:  # that would be fetched whole
            return False
        try:
            deque(self.read(file), maxlen=0)
        except Exception:
            return True
        return False


def _reason(error: BaseException) -> str:
    return shorten(str(error) or type(error).__name__, 200)


def _broken(file: str, reason: str) -> ValueError:
    return ValueError(f"{file}: broken ({reason}); fetch it again or leave it out")


def check_footers(origin: Origin, columns: Sequence[str]) -> None:
    """Check the ends of parquet files, which tell their columns: a run would fail on them later.

    Args:
        origin: Whose files they are.
        columns: Those that will be read; if the first file has one of them, all must.

    Raises:
        ValueError: a file is broken or differs from the first, or there are no rows.
    """
    files = [file for file in origin.files if "://" not in file]
    footers = [_footer(file) for file in files]
    names = [footer.schema.to_arrow_schema().names for footer in footers]
    if files and not any(footer.num_rows for footer in footers):
        raise ValueError(f"{origin.name}: no rows in it; expected one for each picture")
    for file, has in zip(files, names, strict=True):
        # `datasets` takes a file with fewer columns, and reads nothing where they would be.
        if not set(columns) & set(names[0]) <= set(has) <= set(names[0]):
            raise ValueError(
                f"{file}: has the columns {', '.join(has)}, but {files[0]} has "
                f"{', '.join(names[0])}; read files of one kind"
            )


def _footer(file: str) -> "pyarrow.parquet.FileMetaData":
    try:
        return pyarrow.parquet.read_metadata(file)
    except Exception as error:
        raise _broken(file, _reason(error)) from error


def parquet_rows(file: str) -> Iterable[Any]:
    """Read a parquet file to its end."""
    return pyarrow.parquet.ParquetFile(file).iter_batches()


def tar_members(file: str) -> Iterable[Any]:
    """Look at all that a tar file holds."""
    with tarfile.open(file) as members:
        yield from members
