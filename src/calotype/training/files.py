"""Files and folders that are whole or not there, whenever the process is killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from calotype.mistakes import is_disk_full


def publish(beside: Path, folder: Path) -> None:
    """Sync a finished folder to disk and move it to its name, replacing what stood there."""
    for path in [*beside.rglob("*"), beside]:
        sync(path)
    old = hide(folder) if folder.exists() else None
    beside.rename(folder)
    sync(folder.parent)
    if old:
        shutil.rmtree(old)


@contextmanager
def room(beside: Path, place: Path, need: int, kept: str) -> Iterator[None]:
    """Whatever goes wrong within this context leaves nothing in `beside`, a file or a folder.

    Args:
        beside: What is written there, to be moved to its place.
        place: Which that is.
        need: Bytes.
        kept: What is as it was, in words.

    Raises:
        OSError: there is no room for so many bytes.
    """
    free = shutil.disk_usage(place.parent).free
    full = f"{place} needs {need / 2**20:.1f} MiB of disk: make room there; {kept}"
    if free < need:
        raise OSError(f"{full} ({free / 2**20:.1f} MiB are free)")
    try:
        yield
    except BaseException as error:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)
        if is_disk_full(error):  # where there is a quota, or somebody else was faster
            raise OSError(full) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with written(path) as file:
        file.write(text)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step."""
    with _beside(path) as beside:
        beside.write_bytes(data)


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A text file to write that takes its place when all of it is there, and not before; a pipe or
    a device, which has nothing to lose, is written as it comes.
    """
    if path.exists() and not path.is_file():
        with path.open("w") as file:
            yield file
        return
    with _beside(path) as beside, beside.open("w") as file:
        yield file


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path to write to, which takes its place when this context has ended."""
    path = path.resolve()  # or a link would be replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    try:
        yield beside
        sync(beside)
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)


def hide(folder: Path) -> Path:
    """Take a folder's name from it in one step: deleting a folder takes many."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    return folder.rename(old)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
