"""Workers live as long as the training process needs them, and no longer."""

import atexit
import os
import signal
from collections.abc import Iterator
from threading import Thread
from time import sleep
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader

_OPEN: WeakSet[Any] = WeakSet()
"""DataLoader's iterators that have workers."""
_WORKERS: WeakSet[Any] = WeakSet()
"""Their processes; Python holds those that live."""


def opened(loader: DataLoader[Any]) -> Iterator[Any]:
    """Iterate; workers start now, and end with the iterator, or with the program."""
    batches = iter(loader)
    if loader.num_workers:
        _OPEN.add(batches)
        _WORKERS.update(batches._workers)  # type: ignore[attr-defined]
    return batches


@atexit.register
def _close() -> None:
    """End the workers of what an error's traceback still holds, as if it had been let go; and those
    that hang, for whom Python would wait.
    """
    for batches in list(_OPEN):
        batches._shutdown_workers()
    for worker in list(_WORKERS):
        worker.kill()


def let_the_run_end(worker: int) -> None:
    """Ctrl-C, and the SIGTERM of torchrun, Slurm or systemd, or of two of them, reach every
    process; the training one must still get the batches of its step. DataLoader ends its workers
    by other means.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()


def _die_with(parent: int) -> None:
    # DataLoader's own watch lets a worker wait for ever to send what nobody will read.
    while os.getppid() == parent:
        sleep(1)
    os._exit(1)
