"""Ctrl-C and SIGTERM: finish the step, save, stop."""

import os
import signal
import threading
from types import FrameType, TracebackType


class Interrupted(SystemExit):
    """A run was asked to stop; it has saved everything. The exit code is 128 + the signal."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.number, self.step = number, step

    def __reduce__(self) -> "tuple[type[Interrupted], tuple[int, int]]":
        """What another process sends to say that it was stopped."""
        return Interrupted, (self.number, self.step)


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

    def _remember(self, number: int, frame: FrameType | None) -> None:
        again = "; again to quit now" if number == signal.SIGINT else ""
        if self.speaks and not self.number:
            # Whatever was being printed is not to be entered again from here.
            os.write(2, f"\nfinishing this step and saving{again}\n".encode())
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
