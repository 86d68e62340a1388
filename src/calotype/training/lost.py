"""Ranks that are lost: the others end too, and say why."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from calotype.mistakes import Answered, note
from calotype.training.distributed import leave, patience, processes
from calotype.training.interrupt import Interrupted
from calotype.training.words import leave_word, listening, pass_on, word

E = TypeVar("E", bound=BaseException)


class LostError(ConnectionError):
    """Another rank has ended, or says nothing."""


def of_all(error: E) -> E:
    """Mark an error that every rank raises: none need hear of it, and they can go on together."""
    error.__dict__["of_all"] = True
    return error


@contextmanager
def among_ranks() -> Iterator[None]:
    """A command as one of several ranks, if a launcher has started several: they meet before
    anything else, so that what ends one of them, wherever, ends the others, which say why.

    Raises:
        LostError: another rank has ended, is silent or does not come.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        yield
        return
    with together():
        processes()
    with listening(), together():
        yield


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
    except (Exception, Answered, Interrupted, KeyboardInterrupt) as error:
        if isinstance(error, Exception) and _of_exchange(error):
            found = lost(silent="timed out" in str(error).lower())
            for line in getattr(error, "__notes__", ()):
                note(found, line)
            raise found from error
        told = error.__dict__.get("of_all") or isinstance(error, LostError)
        if not told and dist.is_available() and dist.is_initialized():
            # At `leave` exchanges with it fail, unless a wrapped model holds on to connections.
            leave_word(_said(error), leave)
        raise


def _said(error: BaseException) -> str:
    who = f"process {processes().process_index} on {socket.gethostname()} ended: "
    if isinstance(error, Answered):
        return who + error.line
    if isinstance(error, Interrupted):
        return f"{who}it was stopped by {signal.Signals(error.number).name}"
    return who + (f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _of_exchange(error: Exception) -> bool:
    """Whether an exchange with other ranks failed; gloo has no type of its own for that."""
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and "/gloo/" in str(error)


def lost(silent: bool) -> LostError:
    """What another rank is missed for: its last word, or else whether it was silent for too long
    or is gone.
    """
    # Whoever waits for one that waits for one that ended hears nothing either.
    if dist.is_initialized() and (said := word()):
        pass_on()
        return LostError(said)
    if silent:
        return LostError(
            f"no word from another process for {patience().total_seconds():g} s "
            "(CALOTYPE_TIMEOUT): its host is cut off, or it hangs"
        )
    return LostError(
        "another process has ended and left no word: see what it said last, where it ran"
    )
