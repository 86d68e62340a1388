"""Ranks that are lost: the others end too, and say why."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

import torch.distributed as dist

from calotype.mistakes import note
from calotype.training.distributed import leave, patience, processes

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
KEY = "calotype/ended"
"""Under which a rank leaves word of what ended it, in the store by which the ranks met."""
HEARD = "calotype/heard"
"""How many others have read it."""
PROMPT = 2.0
"""Seconds within which that store answers: whoever is cut off from it would wait for minutes."""


class LostError(ConnectionError):
    """Another rank has ended, or says nothing."""


def of_all(error: E) -> E:
    """Mark an error that every rank raises: none need hear of it, and they can go on together."""
    error.__dict__["of_all"] = True
    return error


@contextmanager
def together() -> Iterator[None]:
    """What ends one rank while this is entered ends the others at their next exchange with it,
    and they say why.

    Raises:
        LostError: an exchange failed, because another rank has ended or was silent for as long as
            `patience` says.
    """
    try:
        yield
    except Exception as error:
        if error.__dict__.get("of_all") or not (dist.is_available() and dist.is_initialized()):
            raise
        if not _of_exchange(error):
            _leave_word(error)
            raise
        lost = LostError(_reason(error))
        for line in getattr(error, "__notes__", ()):
            note(lost, line)
        raise lost from error


def _of_exchange(error: Exception) -> bool:
    """Whether an exchange with other ranks failed; gloo has no type of its own for that."""
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and "gloo/transport" in str(error)


def _leave_word(error: Exception) -> None:
    """Let the others know, and whoever keeps the store lets them read it before it is gone."""
    state, store = processes(), _store()
    said = f"process {state.process_index} on {socket.gethostname()} ended: "
    _promptly(lambda: store.set(KEY, f"{said}{type(error).__name__}: {error}"))
    others = state.num_processes - 1
    leave()  # at which their exchanges fail, unless a wrapped model holds on to the connections
    if not state.is_main_process:
        return
    end = time.monotonic() + PROMPT
    while time.monotonic() < end and (_promptly(lambda: store.add(HEARD, 0)) or 0) < others:
        time.sleep(0.05)


def _reason(error: Exception) -> str:
    if "timed out" in str(error).lower():
        return (
            f"no word from another process for {patience().total_seconds():g} s "
            "(CALOTYPE_TIMEOUT): its host is cut off, or it hangs"
        )
    if said := _promptly(_word):
        return said.decode()
    return "another process has ended and left no word: see what it said last, where it ran"


def _word() -> bytes:
    store = _store()
    said = store.get(KEY) if store.check([KEY]) else b""
    store.add(HEARD, 1)
    return said


def _store() -> dist.Store:
    # There is no public name for it.
    return dist.distributed_c10d._get_default_store()


def _promptly(ask: Callable[[], T]) -> T | None:
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
