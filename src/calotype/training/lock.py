"""A run's folder is one run's alone while it trains."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from calotype.training.claims import NO_LOCKS
from calotype.training.progress import say

LOCK = ".lock"
"""In a run's folder: locked by the operating system as long as the process lives that holds it,
which it names."""
_HELD: set[Path] = set()
"""Folders that this process holds: such locks keep only others out."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while it is entered. Who was killed in it holds it no longer,
    and is named. A disk that knows no locks, as a mounted bucket may be, keeps nobody out: that is
    said, and who is named there.

    Raises:
        ValueError: another run is in it.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    place, own = folder.resolve(), _own()
    if place in _HELD:
        raise _in_use(folder, _words(own))
    file, locked = _locked(folder)
    with file:
        _tell(folder, _holder(file), locked)
        file.truncate(0)
        file.write(json.dumps(own))
        file.flush()
        _HELD.add(place)
        try:
            yield
        finally:
            _HELD.discard(place)
            (folder / LOCK).unlink(missing_ok=True)
            if made and not any(folder.iterdir()):
                folder.rmdir()


def _tell(folder: Path, was: str, locked: bool) -> None:
    """Say whom the lock names, and what that means."""
    if not locked:
        there = f"{was} may be in it" if was else "another run may come"
        say(f"the disk of {folder} knows no locks, and {there}: see that one run alone uses it")
    elif was and f" of {socket.gethostname()} " not in was:
        # Many disks that are mounted over a network keep locks within each machine.
        say(
            f"{folder} was held by {was}, which ended without letting go, if its disk knows locks "
            "between machines: going on"
        )
    elif was:
        say(f"{folder} was held by {was}, which ended without letting go: going on")


def _locked(folder: Path) -> tuple[TextIO, bool]:
    """The open file, and whether this process alone has the lock; else its disk knows none."""
    file, locked = (folder / LOCK).open("a+"), True
    try:
        # A process's own: one by flock would live on in workers for a while, whoever was killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        with file:
            raise _in_use(folder, _holder(file) or "another run") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        locked = False
    try:
        if os.fstat(file.fileno()).st_ino == (folder / LOCK).stat().st_ino:
            return file, locked
    except FileNotFoundError:
        pass
    file.close()  # who held it took it away between the two steps
    return _locked(folder)


def _own() -> dict[str, str]:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"process": str(os.getpid()), "host": socket.gethostname(), "since": since}


def _words(said: dict[str, str]) -> str:
    return f"process {said['process']} of {said['host']} since {said['since']}"


def _in_use(folder: Path, by: str) -> ValueError:
    return ValueError(
        f"{folder} is in use by {by}: wait for it, stop it, or choose another --run.out"
    )


def _holder(file: TextIO) -> str:
    """Who wrote the lock, in words; nobody, where it is new."""
    file.seek(0)
    try:
        return _words(json.loads(file.read()))
    except (ValueError, KeyError, TypeError):
        return ""
