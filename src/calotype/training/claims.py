"""Work that is numbered, of which several processes each take what no other has."""

import fcntl
from typing import IO


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
        try:
            how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
            fcntl.lockf(self.file, how, 1, self.first + number)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def let_go(self, number: int) -> None:
        """Let others have it."""
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, self.first + number)
