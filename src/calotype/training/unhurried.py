"""Work of some ranks that others wait for, however long it takes: a waiting exchange ends all of
them by its time-out, though nobody is lost.
"""

import time
from collections.abc import Callable
from itertools import count
from threading import Event, Thread
from typing import TypeVar

from calotype.training.distributed import patience, processes
from calotype.training.lost import lost
from calotype.training.words import PAUSE, PROMPT, heard, store

T = TypeVar("T")
WORK = "calotype/work"
"""Before the names of counters in the store by which the ranks met."""
SOON = 0.01
"""Seconds after which who waits asks again, at first."""
_NUMBERS = count()
"""Of works, which all ranks come to in one order."""


def unhurried(work: Callable[[], T], workers: int, mine: bool) -> T | None:
    """Do a work if it is this rank's, and wait for the others whose it is; None: it is not.

    Args:
        work: It ends by itself; what it raises is raised when the others have been told that it is
            over.
        workers: How many ranks do it.
        mine: Whether this one does.

    Raises:
        LostError: of those at work nobody has been heard of for as long as `patience` says.
    """
    if processes().num_processes == 1:
        return work() if mine else None
    name = f"{WORK}/{next(_NUMBERS)}"
    waiting = _Waiting(name, workers, mine)
    try:
        result = _beating(work, name) if mine else None
    except Exception:
        waiting.wait()
        raise
    waiting.wait()
    return result


def _beating(work: Callable[[], T], name: str) -> T:
    """Let the others know meanwhile that this rank is there."""
    kept, end = store(), Event()

    def beat() -> None:
        try:
            while not end.wait(PAUSE):
                kept.add(f"{name}/beats", 1)
        except RuntimeError:  # whoever kept the store is gone
            pass

    thread = Thread(target=beat, daemon=True, name="beats")
    thread.start()
    try:
        return work()
    finally:
        end.set()
        thread.join(PROMPT)


class _Waiting:
    """Looks whether all is done, in a thread: a store whose host is cut off does not answer, and
    holds up who asks it.
    """

    def __init__(self, name: str, workers: int, done: bool) -> None:
        self.name, self.workers, self.done = name, workers, done
        self._kept = store()
        self._over, self._left = Event(), Event()
        self._beats, self._beaten = -1, 0.0
        self._gone = False

    def wait(self) -> None:
        """Say that this rank is done, if it had anything to do, and wait until all are."""
        self._beaten = time.monotonic()
        thread = Thread(target=self._look, daemon=True, name="waiting")
        thread.start()
        try:
            while not self._over.wait(PAUSE):
                late = time.monotonic() - self._beaten > patience().total_seconds()
                if late or self._gone or heard():
                    raise lost(silent=late)
        finally:
            self._left.set()
            thread.join(PROMPT)

    def _look(self) -> None:
        pause, own = SOON, int(self.done)
        try:
            while self._kept.add(f"{self.name}/done", own) < self.workers:
                if (beats := self._kept.add(f"{self.name}/beats", 0)) != self._beats:
                    self._beats, self._beaten = beats, time.monotonic()
                if self._left.wait(pause):
                    return
                pause, own = min(2 * pause, PAUSE), 0
            self._over.set()
        except RuntimeError:
            self._gone = True  # with who kept the store
