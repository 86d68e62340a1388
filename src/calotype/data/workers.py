"""Workers live as long as the training process needs them, and no longer."""

import atexit
import os
import signal
from collections.abc import Iterator
from threading import Thread
from time import sleep
from types import FrameType
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader

_OPEN: WeakSet[Any] = WeakSet()
"""DataLoader's iterators that have workers."""


def opened(loader: DataLoader[Any]) -> Iterator[Any]:
    """Iterate; workers start now, and end with the iterator, or with the program."""
    batches = iter(loader)
    if loader.num_workers:
        _OPEN.add(batches)
    return batches


@atexit.register
def _close() -> None:
    """End the workers of what an error's traceback still holds, as if it had been let go."""
    for batches in list(_OPEN):
        batches._shutdown_workers()


def let_the_run_end(worker: int) -> None:
    """Ctrl-C, and the SIGTERM of torchrun, Slurm or systemd, reach every process; the training one
    must still get the batches of its step.

    DataLoader ends its workers by other means. To one that hangs it sends a SIGTERM, and Python
    another at its exit: one is ignored, the other obeyed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()


def _ignore_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _die_with(parent: int) -> None:
    # DataLoader's own watch lets a worker wait for ever to send what nobody will read.
    while os.getppid() == parent:
        sleep(1)
    os._exit(1)
