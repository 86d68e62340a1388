"""Where a table comes from: what tells it from others, and which of its files cannot be read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from textwrap import shorten

from calotype.data.identity import Identity, of_files
from calotype.lazy import datasets


def is_local(files: Sequence[str]) -> bool:
    """Whether all are paths."""
    return not any("://" in file for file in files)


def identity_of(files: Sequence[str]) -> Identity | None:
    """What tells files from others, and their order where that is not of their letters; None: they
    are not at hand.
    """
    if not is_local(files):
        return None
    return partial(of_files, files, what="files" if files == sorted(files) else "files by number")


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
