"""Where a table comes from: what tells it from others, and which of its files cannot be read."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from textwrap import shorten

import fsspec

from calotype.data.identity import Identity, digest, of_files
from calotype.data.reading.remote import check, options_of, tried
from calotype.lazy import datasets

ASKED = 32
"""Files at URLs whose sizes are asked for at once."""


def is_local(files: Sequence[str]) -> bool:
    """Whether all are paths."""
    return not any("://" in file for file in files)


def identity_of(files: Sequence[str]) -> Identity:
    """What tells files from others, and their order where that is not of their letters: their names
    and sizes, of URLs as the server says them.
    """
    what = "files" if files == sorted(files) else "files by number"
    return partial(of_files if is_local(files) else of_urls, files, what=what)


def of_urls(files: Sequence[str], what: str) -> str:
    """As `of_files`; what a URL asks for after `?`, such as a signature, is no part of its name.

    Raises:
        OSError: a server cannot be asked.
    """
    bare = [file.partition("?")[0] for file in files]
    # Of URLs, which `commonpath` would mend.
    within = os.path.commonprefix([file.rpartition("/")[0] + "/" for file in bare])  # noqa: RUF071
    with ThreadPoolExecutor(ASKED) as pool:
        sizes = pool.map(_size_at, files)
    names = sorted((file[len(within) :], size) for file, size in zip(bare, sizes, strict=True))
    return f"{len(files)} {what}, {digest(f'{name} {size}' for name, size in names)}"


def _size_at(url: str) -> int:
    system, path = fsspec.url_to_fs(url, **(options_of(check(url)) if "://" in url else {}))
    size = tried(lambda: system.size(path), url)
    return -1 if size is None else size


@dataclass(frozen=True)
class Origin:
    """A table that `datasets` reads, as errors say it: it raises nearly anything."""

    name: str
    expected: str
    """What can be read."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Make one line of whatever `datasets` raises at what it cannot read.

        Raises:
            ValueError: something was raised; the message names the table and the reason.
        """
        try:
            yield
        except Exception as error:
            # Of files that it copies, `datasets` says only that there was an error.
            hidden = isinstance(error, datasets.exceptions.DatasetGenerationError)
            reason = reason_of((hidden and error.__cause__) or error)
            raise ValueError(
                f"{self.name}: cannot be read ({reason}); expected {self.expected}"
            ) from error


def reason_of(error: BaseException) -> str:
    """What an error says, in one line."""
    return shorten(str(error) or type(error).__name__, 200)


def broken(file: str, reason: str) -> ValueError:
    """Make the error of a file that cannot be read."""
    return ValueError(f"{file}: broken ({reason}); fetch it again or leave it out")
