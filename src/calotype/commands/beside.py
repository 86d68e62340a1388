"""Two parts of a journey side by side: a process of its own does one of them.

Small networks leave most of a second core idle: their steps are many short products, and each
waits for all threads. Two trainings of one thread each get more out of two cores than one after the
other of two threads each.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from calotype.training.devices import device_named
from calotype.training.distributed import processes

R = TypeVar("R")


@runtime_checkable
class Do(Protocol):
    """Does some work, here or in another process, and returns what it returns."""

    def __call__(self, work: Callable[..., R], *args: Any) -> R: ...  # noqa: D102


def here(work: Callable[..., R], *args: Any) -> R:
    """Do it in this process."""
    return work(*args)


def share() -> int | None:
    """Threads that each of two processes has side by side; None: one after the other is as fast,
    because there is a GPU, a single thread, or several processes at work already.
    """
    threads = torch.get_num_threads()
    alone = processes().num_processes == 1 and device_named("auto").type == "cpu"
    return threads // 2 if alone and threads > 1 else None


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """While it is entered, torch computes with so many threads; None: as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Beside:
    """While it is entered, another process does what `begin` was given; leaving it waits for that.
    If something goes wrong on this side, Ctrl-C included, the other is asked to save and stop.

    Args:
        log: File to which the other process writes what it says.
        share: Threads of either process.
    """

    def __init__(self, log: Path, share: int) -> None:
        self._log, self._threads = log, threads(share)
        context = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, context, _settle_in, (str(log), share))
        self._lane = ThreadPoolExecutor(1, "beside")
        self._id: int | None = None
        self._work: Future[Any] | None = None

    def __enter__(self) -> "Beside":
        self._threads.__enter__()
        return self

    def begin(self, travel: Callable[[Do], R]) -> "Future[R]":
        """Let a thread call `travel`, whose every work that it gives to its argument is done by the
        other process.
        """
        self._work = self._lane.submit(lambda: travel(self._do))
        return self._work

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            if error is not None:
                self._signal(signal.SIGINT)
            if self._work is not None:
                self._work.exception()  # waits; the error is raised by result()
        except KeyboardInterrupt:
            self._signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
            raise
        finally:
            self._lane.shutdown(cancel_futures=True)
            self._process.shutdown()
            self._threads.__exit__(None, None, None)

    def _do(self, work: Callable[..., R], *args: Any) -> R:
        if self._id is None:
            self._id = self._process.submit(os.getpid).result()
        try:
            return self._process.submit(work, *args).result()
        except Exception as error:
            error.add_note(f"It happened beside what is shown here: {self._log} has what was said.")
            raise

    def _signal(self, number: int) -> None:
        if self._id is not None:
            try:
                os.kill(self._id, number)
            except ProcessLookupError:  # it is over already
                pass


def _settle_in(log: str, share: int) -> None:
    """Of the other process: quiet, out of reach of the terminal's Ctrl-C, which the first one
    passes on once, and not outliving that one.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    torch.set_num_threads(share)
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)
