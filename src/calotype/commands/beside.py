"""Two parts of a journey side by side: a process of its own does one of them.

Small networks leave most of a second core idle: their steps are many short products, and each
waits for all threads. Two trainings of one thread each get more out of two cores than one after the
other of two threads each.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from traceback import format_exc
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch

from calotype.commands.quiet import ignore_warnings
from calotype.mistakes import TracebackElsewhere, is_told, note, sendable
from calotype.training.devices import threads
from calotype.training.distributed import own_device, processes
from calotype.training.interrupt import Interrupted, Interrupts

R = TypeVar("R")
POLL = 0.2
"""Seconds after which a wait looks whether it was interrupted."""


@runtime_checkable
class Call(Protocol):
    """Does some work, in this process or another, and returns what it returns."""

    def __call__(self, work: Callable[..., R], *args: Any) -> R: ...  # noqa: D102


def call_here(work: Callable[..., R], *args: Any) -> R:
    """Do it in this process."""
    return work(*args)


def threads_for_two() -> int | None:
    """Threads that each of two processes has side by side; None: one after the other is as fast,
    because there is a GPU, a single thread, or several processes at work already, or the system
    cannot ask a process to save and stop (Windows).
    """
    count = torch.get_num_threads()
    alone = processes().num_processes == 1 and own_device().type == "cpu"
    return count // 2 if alone and count > 1 and hasattr(os, "setsid") else None


class Outcome(NamedTuple):
    """What a work came to."""

    result: Any = None
    error: BaseException | None = None
    traceback: str = ""
    """Of the error."""
    told: bool = True
    """Whether its message tells a user all."""


class Warned(NamedTuple):
    """What a work warns of, while it goes on."""

    text: str
    category: type[Warning]


class WorkerProcess:
    """While it is entered, another process does what `begin` was given; leaving it waits for that.
    If something goes wrong on this side, Ctrl-C included, the other saves and stops, too.

    Args:
        log: File to which the other process writes what it says.
        threads_each: Threads of either process.
    """

    def __init__(self, log: Path, threads_each: int) -> None:
        self.log, self._threads = log, threads(threads_each)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._theirs = theirs
        # No daemon: these may have no workers that read data.
        self._process = context.Process(target=_serve, args=(theirs, str(log), threads_each))
        self._lane = ThreadPoolExecutor(1, "beside")
        self._work: Future[Any] | None = None
        self._busy, self._stopping = threading.Event(), threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    def __enter__(self) -> "WorkerProcess":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # It inherits that: a terminal's Ctrl-C is passed on by this process, once.
        was = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, was)
        self._theirs.close()  # so that its end is known here when it dies
        self._threads.__enter__()
        return self

    def begin(self, travel: Callable[[Call], R]) -> "Future[R]":
        """Let a thread call `travel`, whose every work that it gives to its argument is done by the
        other process.
        """
        self._work = self._lane.submit(lambda: travel(self._call))
        return self._work

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            if error is not None:
                self._stop()
            self._wait()
        except KeyboardInterrupt:
            self._stopping.set()
            self._process.kill()
            raise
        finally:
            self._lane.shutdown()
            self._connection.close()  # it ends with that
            self._process.join()
            self._threads.__exit__(None, None, None)

    def _wait(self) -> None:
        """Wait for the work. The first signal on the way lets it save and stop, the next Ctrl-C
        ends it.
        """
        if self._work is None:
            return
        if self.stopping:
            wait([self._work])
            return
        with Interrupts() as interrupts:
            while not self._work.done():
                wait([self._work], POLL)
                if interrupts.number and not self.stopping:
                    self._stop()
        if interrupts.number and self._work.exception() is None:
            raise Interrupted(interrupts.number, 0)

    def _stop(self) -> None:
        self._stopping.set()
        process = self._process.pid
        if self._busy.is_set() and process is not None:
            with suppress(ProcessLookupError):  # it has just died, which the lane tells
                os.kill(process, signal.SIGINT)
        else:  # between two works there is nothing to save
            self._process.terminate()

    def _call(self, work: Callable[..., R], *args: Any) -> R:
        if self.stopping:
            raise KeyboardInterrupt
        try:
            self._connection.send_bytes(ForkingPickler.dumps((work, args)))
            self._connection.recv()  # it has begun
            self._busy.set()
            while isinstance(heard := self._connection.recv(), Warned):
                warnings.warn(heard.text, heard.category, stacklevel=2)  # nobody reads a log
            outcome: Outcome = heard
        except (EOFError, OSError) as error:
            self._process.join()
            raise RuntimeError(
                f"the process beside this one has ended with {self._process.exitcode}; {self.log} "
                "has what it said"
            ) from error
        finally:
            self._busy.clear()
        if outcome.error is not None:
            note(outcome.error, f"{self.log} has what was said there")
            raise outcome.error from TracebackElsewhere(outcome.traceback, outcome.told)
        return outcome.result


def _serve(connection: Connection, log: str, threads_each: int) -> None:
    """The other process: it does one work after the other, and ends when its connection does."""
    os.setsid()  # out of reach of the terminal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    ignore_warnings()
    torch.set_num_threads(threads_each)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    while True:
        try:
            order = connection.recv_bytes()
        except EOFError:
            return
        connection.send(_outcome(order, connection))


def _outcome(order: bytes, connection: Connection) -> Outcome:
    try:
        work, args = ForkingPickler.loads(order)  # pyright: ignore[reportAttributeAccessIssue]
        with _heeding_signals(), _passing_warnings_on(connection):
            connection.send("begun")
            return Outcome(work(*args))
    except BaseException as error:
        return Outcome(None, sendable(error), format_exc(), is_told(error))


@contextmanager
def _passing_warnings_on(connection: Connection) -> Iterator[None]:
    """While it is entered, what is warned of is written to the log and sent to the first process,
    too.
    """
    show, one_by_one = warnings.showwarning, threading.Lock()

    def pass_on(message: Warning | str, category: type[Warning], *where: Any) -> None:
        show(message, category, *where)
        with one_by_one:
            connection.send(Warned(str(message), category))

    with warnings.catch_warnings():
        warnings.showwarning = pass_on
        yield


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """While it is entered SIGINT interrupts; before and after there is nothing to save."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_the_first() -> None:
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)
