"""Ctrl-C and SIGTERM: finish the step, save, stop."""

import signal
from types import FrameType, TracebackType


class Interrupted(SystemExit):
    """A run was asked to stop; it has saved everything. The exit code is 128 + the signal."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.step = step


class Interrupts:
    """While entered, remembers a SIGINT or SIGTERM instead of dying of it.

    A second SIGINT does what it would have done: an impatient user gets out. Of SIGTERM, launchers
    and schedulers each send one.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "Interrupts":
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
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
