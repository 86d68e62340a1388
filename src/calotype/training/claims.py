"""Work that is numbered, of which several processes each take what no other has."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What disks answer that know of no locks."""


class Claims:
    """Locks on bytes of a file, one a number. A lock is the operating system's: it ends with its
    process, however that ends.

    Args:
        file: Open for writing, and to the end: closing any handle of a file ends all locks that a
            process has on it.
        first: The byte of number 0, which need not be there.
    """

    def __init__(self, file: IO[bytes], first: int = 0) -> None:
        self.file, self.first = file, first

    def take(self, number: int, wait: bool = False) -> bool:
        """Whether this process has it now: no other one does, or did until it let go."""
        return self._lock(fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB, number)

    def share(self, number: int) -> None:
        """Have it together with all who share it; while any does, nobody takes it. Waits for who
        took it.
        """
        self._lock(fcntl.LOCK_SH, number)

    def let_go(self, number: int) -> None:
        """Let others have it."""
        self._lock(fcntl.LOCK_UN, number)

    @contextmanager
    def taken(self, number: int) -> Iterator[None]:
        """While it is entered this process has it; waits for it."""
        self.take(number, wait=True)
        try:
            yield
        finally:
            self.let_go(number)

    def _lock(self, how: int, number: int) -> bool:
        try:
            fcntl.lockf(self.file, how, 1, self.first + number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise OSError(
                f"{os.path.dirname(self.file.name)}: its disk knows no locks, by which processes "
                "share work: choose a folder on another one"
            ) from error
        return True
