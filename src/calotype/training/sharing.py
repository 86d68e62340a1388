"""Work that ranks share, piece by piece, and whose results the main process has in order."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch.distributed as dist

from calotype.mistakes import sendable
from calotype.training.agreement import gathered
from calotype.training.distributed import processes
from calotype.training.lost import of_all, together

T = TypeVar("T")
R = TypeVar("R")


def own_part(pieces: Iterable[T]) -> Iterator[T]:
    """Of pieces that all ranks know, those of this one: of n ranks each has every n-th, the main
    process the first.
    """
    state = processes()
    return (piece for number, piece in enumerate(pieces)
            if number % state.num_processes == state.process_index)  # fmt: skip


def in_turn(own: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """Do this rank's pieces, while others do theirs. The main process is given what came of all, in
    their order, a round of one piece each at a time; the others are given nothing, and go through
    it to its end all the same.

    Args:
        own: This rank's pieces, as `own_part` deals them; asked for as they are needed.
        work: What to do with one. What it gives is sent as it is pickled: tensors lie on the CPU.

    Raises:
        Exception: on all ranks, what went wrong on one.
        LostError: another rank is not there any more.
    """
    pieces = iter(own)
    if processes().num_processes == 1:
        yield from map(work, pieces)
        return
    while True:
        result, error, more = None, None, False
        try:
            for piece in pieces:
                result, more = work(piece), True
                break
        except Exception as found:
            error = found
        said = _told(more, error)
        if not any(said):
            return
        every = _gathered(result)
        yield from (each for each, has in zip(every, said, strict=False) if has)


def wait_for_all() -> None:
    """Wait until all ranks are here.

    Raises:
        LostError: another rank is not there any more.
    """
    with together():
        gathered(None)


def _told(more: bool, error: Exception | None) -> list[bool]:
    """Whether each rank has a result.

    Raises:
        Exception: what went wrong on one.
    """
    with together():
        every = gathered((more, error and sendable(error)))
    if error is not None:
        raise of_all(error)
    for _, theirs in every:
        if theirs is not None:
            raise of_all(theirs)
    return [has for has, _ in every]


def _gathered(result: Any) -> list[Any]:
    """What all ranks have, on the main process; elsewhere nothing."""
    state = processes()
    every = [None] * state.num_processes if state.is_main_process else None
    with together():
        dist.gather_object(result, every, dst=0)
    return every or []
