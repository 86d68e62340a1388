"""The last word of a rank, in the store by which the ranks met.

Most often the main process keeps that store, and takes it along when it ends. So each rank listens
beside its work, and who ends waits a little until it has been heard.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

import torch.distributed as dist

from calotype.training.distributed import processes

T = TypeVar("T")
KEY = "calotype/ended"
"""Under which a rank leaves word of what ended it."""
OVER = "calotype/over"
"""Under which the main process says that its work is done, and the store may be gone."""
HEARD = "calotype/heard"
"""How many others have heard either, or need not."""
PROMPT = 2.0
"""Seconds within which that store answers: whoever is cut off from it would wait for minutes."""
PAUSE = 0.5
"""Seconds between two times that a listener asks."""
LINGER = 5.0
"""Seconds that the main process waits to be heard; who is dead does not hear."""


class Listener:
    """Hears of what ended another rank, whatever this one is at meanwhile."""

    def __init__(self) -> None:
        self.word = ""
        self.counted = False
        self.kept, self._end = store(), Event()
        self._thread = Thread(target=self._listen, daemon=True, name="listener")
        self._thread.start()

    def _listen(self) -> None:
        try:
            while not self._end.wait(PAUSE):
                if self.kept.check([KEY]):
                    self.word = self.kept.get(KEY).decode()
                if self.word or self.kept.check([OVER]):
                    self.count()
                    return
        except RuntimeError:  # the store went with who kept it
            pass

    def count(self) -> None:
        """Let the main process know that it need not wait for this one."""
        if not self.counted:
            self.counted = True
            self.kept.add(HEARD, 1)

    def stop(self) -> None:
        """Ask no more; a thread that is still at it when Python ends may abort the process."""
        self._end.set()
        self._thread.join(PROMPT)


_LISTENERS: list[Listener] = []
"""That of this process, while it listens."""


@contextmanager
def listening() -> Iterator[None]:
    """While it is entered, and there are other ranks, this one hears of what ends them."""
    if not (dist.is_available() and dist.is_initialized()):
        yield
        return
    _LISTENERS.append(Listener())
    try:
        yield
        _part()
    finally:
        _LISTENERS.pop().stop()


def _part() -> None:
    """Part from the others without a word, because all is done."""
    listener = _LISTENERS[-1]
    listener.stop()
    if processes().is_main_process:
        promptly(lambda: listener.kept.set(OVER, "1"))
        _linger(listener.kept, processes().num_processes - 1)
    else:
        promptly(listener.count)


def leave_word(said: str, part: Callable[[], None]) -> None:
    """Let the others know what ended this rank, if it is the first that ends.

    Args:
        said: It.
        part: Ends exchanges with them.
    """
    main, kept = processes().is_main_process, store()
    promptly(lambda: kept.compare_set(KEY, "", said))
    listener = _LISTENERS[-1] if _LISTENERS else None
    if listener:
        listener.stop()
    if not main:
        promptly(listener.count if listener else lambda: kept.add(HEARD, 1))
    part()
    if main:
        _linger(kept, processes().num_processes - 1)


def pass_on() -> None:
    """Keep the store, if this is the main process, until all have heard what ended one of them."""
    if processes().is_main_process:
        _linger(store(), processes().num_processes)  # this one has heard it too


def _linger(kept: dist.Store, wanted: int) -> None:
    """Keep the store until so many have heard."""
    end = time.monotonic() + LINGER
    while time.monotonic() < end and (promptly(lambda: kept.add(HEARD, 0)) or 0) < wanted:
        time.sleep(0.05)


def heard() -> str:
    """What ended another rank, if this one has heard of it already."""
    return _LISTENERS[-1].word if _LISTENERS else ""


def word() -> str:
    """What ended another rank, if one left word of it."""
    listener = _LISTENERS[-1] if _LISTENERS else None
    if listener:
        listener.stop()
        if listener.word:
            return listener.word
    return promptly(lambda: _read(listener)) or ""


def _read(listener: Listener | None) -> str:
    kept = store()
    said = kept.get(KEY).decode() if kept.check([KEY]) else ""
    if listener:
        listener.count()
    else:
        kept.add(HEARD, 1)
    return said


def store() -> dist.Store:
    """That by which the ranks met."""
    # There is no public name for it.
    return dist.distributed_c10d._get_default_store()


def promptly(ask: Callable[[], T]) -> T | None:
    """What the store answers; None: it does not, or not soon."""
    answers: list[T] = []

    def work() -> None:
        try:
            answers.append(ask())
        except RuntimeError:  # it was on the host that is lost
            pass

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(PROMPT)
    return answers[0] if answers else None
