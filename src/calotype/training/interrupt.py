"""Ctrl-C and SIGTERM: finish the step, save, stop."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Interrupted(SystemExit):
    """A run was asked to stop; it has saved everything. The exit code is 128 + the signal."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.number, self.step = number, step
        self.requeued = False
        """Whether a scheduler has been asked to begin again."""

    def __reduce__(self) -> "tuple[type[Interrupted], tuple[int, int]]":
        """What another process sends to say that it was stopped."""
        return Interrupted, (self.number, self.step)


class BrokenOff(BaseException):
    """A signal came in something long that can be done again."""


class Interrupts:
    """While entered, remembers a SIGINT or SIGTERM instead of dying of it.

    A second SIGINT does what it would have done: an impatient user gets out. Of SIGTERM, launchers
    and schedulers each send one. Python lets the main thread alone handle signals: in any other,
    a server's or a notebook's, they do what they would have done.

    Args:
        speaks: Whether this process says that it has heard, at once: of several ranks one does.
    """

    def __init__(self, speaks: bool = True) -> None:
        self.number, self.speaks = 0, speaks
        self._breaks = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """What is done within it does not keep a signal waiting.

        Raises:
            BrokenOff: one came, here or before.
        """
        self._breaks = True
        try:
            if self.number:
                raise BrokenOff
            yield
        finally:
            self._breaks = False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        again = "; again to quit now" if number == signal.SIGINT else ""
        if self.speaks and not self.number:
            # Whatever was being printed is not to be entered again from here.
            os.write(2, f"\nfinishing this step and saving{again}\n".encode())
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
        if self._breaks:
            self._breaks = False  # others may come while it is being left
            raise BrokenOff
