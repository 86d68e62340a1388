"""Folders of the main process for hosts that do not see its disk."""

import shutil
from pathlib import Path
from typing import IO
from uuid import uuid4

import torch
import torch.distributed as dist

from calotype.training.agreement import by_main, gathered
from calotype.training.claims import Claims
from calotype.training.distributed import own_device, processes
from calotype.training.files import publish
from calotype.training.lost import of_all

PIECE = 2**24
"""Bytes that are sent at a time."""


def hand_out(folder: Path) -> None:
    """Give hosts that do not see the main process's folder a copy of it, whole or not at all, in
    place of what they have there. Where all see it nothing is sent.

    Raises:
        OSError: on all ranks, a disk is full.
    """
    state = processes()
    if state.num_processes == 1:
        return
    seen = _sees(folder)
    if all(gathered(seen)):
        return
    names = by_main(lambda: sorted(str(f.relative_to(folder)) for f in _files(folder)))
    beside = folder.with_name(f".{folder.name}.received")
    receives = state.is_local_main_process and not seen
    if receives:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    failed = ""
    for name in names:
        try:
            _send(folder / name, beside / name if receives else None)
        except OSError as error:  # the others are told when all pieces have been sent
            failed, receives = f"{folder / name}: {error}", False
    if said := next(filter(None, gathered(failed)), ""):
        raise of_all(OSError(f"a copy of the model could not be written: {said}"))
    if receives:
        publish(beside, folder)
    state.wait_for_everyone()


def check_shared(folder: Path, flag: str) -> None:
    """See that a folder, which need not be there yet, is on a disk that all ranks see, and where
    each heeds what another has locked.

    Args:
        folder: Which.
        flag: What names it.

    Raises:
        ValueError: on all ranks, it is not.
    """
    if processes().num_processes == 1:
        return
    places = [folder.absolute(), *folder.absolute().parents]
    there = by_main(lambda: next(i for i, place in enumerate(places) if place.is_dir()))
    said = gathered(_sees(places[there]))
    if not all(said):
        raise ValueError(
            f"{flag} {folder}: process {said.index(False)} does not see what process 0 writes "
            "there: choose a folder on a disk that all machines see"
        )
    said = gathered(_heeds(places[there]))
    if not all(said):
        raise ValueError(
            f"{flag} {folder}: process {said.index(False)} does not heed what process 0 locks "
            "there: choose a folder on a disk that knows locks between machines"
        )


def _heeds(folder: Path) -> bool:
    """Whether this rank is kept out of what the main process has locked."""
    kept: list[IO[bytes]] = []

    def lock() -> str:
        file = folder / f".{uuid4().hex}"
        kept.append(file.open("ab+"))
        Claims(kept[0]).take(0)
        return file.name

    state, file = processes(), folder / by_main(lock)
    heeds = state.is_main_process
    if not heeds:
        with file.open("ab+") as opened:
            heeds = not Claims(opened).take(0)
    state.wait_for_everyone()
    for opened in kept:
        opened.close()
        file.unlink()
    return heeds


def _sees(folder: Path) -> bool:
    """Whether this rank sees the main process's folder: a file of a name that nobody has."""

    def left() -> str:
        name = f".{uuid4().hex}"
        (folder / name).touch()
        return name

    state, name = processes(), by_main(left)
    seen = (folder / name).exists()
    state.wait_for_everyone()
    if state.is_main_process:
        (folder / name).unlink()
    return seen


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _send(source: Path, target: Path | None) -> None:
    """A file of the main process to whoever has a place for it.

    Raises:
        OSError: it could not be written; all of it was received nevertheless.
    """
    state, failed = processes(), None
    size = by_main(lambda: source.stat().st_size)
    reading = source.open("rb") if state.is_main_process else None
    writing = None
    try:
        for start in range(0, size, PIECE):
            count = min(PIECE, size - start)
            piece = torch.empty(count, dtype=torch.uint8)
            if reading:
                piece = torch.frombuffer(bytearray(reading.read(count)), dtype=torch.uint8)
            piece = piece.to(own_device())
            dist.broadcast(piece, 0)
            if target is None or failed:
                continue
            try:
                if writing is None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    writing = target.open("wb")
                writing.write(piece.cpu().numpy().tobytes())
            except OSError as error:
                failed = error
        if target is not None and not size:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    finally:
        for file in (reading, writing):
            if file:
                file.close()
    if failed:
        raise failed
