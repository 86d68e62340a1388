"""How far something long is: a bar on a terminal, and a line at least every 20 seconds elsewhere.

All of it goes to stderr, from the main process. What is part of something longer, such as a demo,
is heard by whoever entered `heard_by`, and told as that one says it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from calotype.training.distributed import processes

R = TypeVar("R")
EVERY = 15.0
"""Seconds without a line after which there is one."""
SELDOM = 10.0
"""Seconds within which figures of what is part of something longer bring no second line."""
OFTEN = 1.0
"""Seconds after which a bar's listener hears of it again."""


@dataclass(frozen=True)
class Standing:
    """How far something is."""

    what: str
    """Its name."""
    done: int
    """Steps, images or whatever it counts."""
    total: int | None
    """Of these; None: unknown."""
    speed: float
    """Images per second; 0: unknown, or there are none."""
    seconds: float
    """Since it began in this process."""
    left: float | None
    """Seconds to its end at this speed; None: unknown."""

    def __str__(self) -> str:
        """In words: `kl 50/4000, 36 img/s, 0:58:31 left`."""
        since = f"{clock(self.seconds)} so far"
        return f"{self.counted}, " + (since if self.left is None else f"{clock(self.left)} left")

    @property
    def counted(self) -> str:
        """Without a time: `kl 50/4000, 36 img/s`."""
        words = f"{self.what} {self.done}" + (f"/{self.total}" if self.total else "")
        return words + (f", {self.speed:.3g} img/s" if self.speed else "")


Listener = Callable[[Standing], str]
"""Hears how far each part of something longer is; returns what is said of it, such as
`part 2 of 6, 12 min left of all: kl 50/4000`. It may be called by another thread."""

_LISTENER: ContextVar[Listener] = ContextVar("listener", default=str)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within this context a listener hears how far whatever is long is."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


_HUSHED: ContextVar[bool] = ContextVar("hushed", default=False)


@contextmanager
def hushed() -> Iterator[None]:
    """Within this context nothing is told of how far things are: what is done is a trial."""
    token = _HUSHED.set(True)
    try:
        yield
    finally:
        _HUSHED.reset(token)


class Told:
    """Something long while it is entered.

    Args:
        what: Its name.
        total: How much there is to count; None: unknown.
        done: How much of it was done before.
        images: Images to each that is counted; 0: it is not about images.
    """

    def __init__(self, what: str, total: int | None, done: int = 0, images: int = 0) -> None:
        self.what, self.total, self.done, self.images = what, total, done, images
        self.console, self.main = Console(stderr=True), _speaks()
        self.note = ""
        self._listener, self._end = _LISTENER.get(), threading.Event()
        self._began = self._since = self._told = time.monotonic()
        self._first = self._from = done
        self._bar = Progress(
            *self._columns(), console=self.console,
            disable=not (self.main and self.console.is_terminal),
        )  # fmt: skip
        self._task = self._bar.add_task(what, total=total, completed=done, speed=0.0, note="")
        # Between two steps nobody would speak, and one may take minutes.
        self._beats = threading.Thread(target=self._beat, daemon=True)

    @property
    def _is_part(self) -> bool:
        """Of something longer, whose listener says all in words."""
        return self._listener is not str

    def _columns(self) -> list[ProgressColumn]:
        speed = [TextColumn("{task.fields[speed]:.3g} img/s")] if self.images else []
        counted = [] if self._is_part else [MofNCompleteColumn(), *speed, TimeRemainingColumn()]
        name, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
        return [name, BarColumn(), *counted, note]

    def __enter__(self) -> "Told":
        self._bar.start()
        if self.main:
            self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._end.set()
        if self.main:
            self._beats.join()
            if self.console.is_terminal:  # what stays on the screen is not of a second ago
                self.tell()
        self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """Count on."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """Count up to a number; of the first that is done there is a line at once."""
        first, self.done = self.done == self._first, done
        if first:
            # What is only paid once, such as a compiled kernel, says nothing about the rest.
            self._since, self._from = time.monotonic(), done
        self._bar.update(self._task, completed=done, speed=self.standing.speed)
        if first and done > self._first:
            self.tell()

    @property
    def standing(self) -> Standing:
        """How far it is now."""
        now = time.monotonic()
        since, first = (self._since, self._from)
        if self.done == first:  # at most one is done: it tells more than nothing
            since, first = self._began, self._first
        each = (now - since) / (self.done - first) if self.done > first else None
        left = None if each is None or self.total is None else each * (self.total - self.done)
        speed = self.images / each if each else 0.0
        return Standing(self.what, self.done, self.total, speed, now - self._began, left)

    def tell(self) -> None:
        """Say how far it is, and what `note` is; a terminal shows both all the time."""
        if not self.main:
            return
        self._told = time.monotonic()
        line = self._listener(self.standing)
        if self.console.is_terminal:
            name = line if self._is_part else self.what
            self._bar.update(self._task, description=name, note=self.note)
        else:
            self._print(f"{line}  {self.note}".rstrip())

    def mention(self) -> None:
        """Say how far it is, unless it is part of something longer and that was said just now."""
        soon = time.monotonic() < self._told + SELDOM
        if not (self._is_part and soon and self.done != self.total):
            self.tell()

    def say(self, line: str) -> None:
        """Tell the person who watches something else."""
        if self.main:
            self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _beat(self) -> None:
        wait = OFTEN if self.console.is_terminal else EVERY
        while not self._end.wait(max(0.1, self._told + wait - time.monotonic())):
            if time.monotonic() >= self._told + wait:
                self.tell()


def track(items: Iterable[R], what: str, total: int | None, images: int = 0) -> Iterator[R]:
    """The same items, while it is told how many of them are done with."""
    with Told(what, total, images=images) as told:
        for item in items:
            yield item
            told.advance()


def say(line: str) -> None:
    """Tell the person who watches."""
    if _speaks():
        Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _speaks() -> bool:
    return processes().is_main_process and not _HUSHED.get()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
