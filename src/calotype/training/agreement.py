"""What all ranks must know alike before they train: no disk is taken to be shared, and a
disagreement ends all of them at once.
"""

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from calotype import __version__
from calotype.mistakes import sendable
from calotype.training.checkpoint import Tensors
from calotype.training.distributed import own_device, processes
from calotype.training.lost import LostError, of_all
from calotype.training.unhurried import unhurried

T = TypeVar("T")


def agree(said: Mapping[str, Any]) -> None:
    """See that all ranks say the same.

    Args:
        said: By name what this rank knows; small.

    Raises:
        ValueError: on all ranks, they do not.
    """
    every = gathered(dict(said))
    for name in {name: None for each in every for name in each}:
        values = [each.get(name) for each in every]
        if odd := next((rank for rank, value in enumerate(values) if value != values[0]), 0):
            raise of_all(ValueError(
                f"{name} is {values[0]} for process 0 and {values[odd]} for process {odd}: give "
                "all processes the same"
            ))  # fmt: skip


def agree_to_share(**asked: Callable[[], Any]) -> None:
    """See that ranks that are to share a work have the same in hand; one alone is not asked.

    Args:
        asked: By name what says what this rank has, such as a fingerprint.

    Raises:
        ValueError: on all ranks, they have not, or their versions differ.
    """
    if processes().num_processes > 1:
        agree({**versions(), **{name: ask() for name, ask in asked.items()}})


def versions() -> dict[str, str]:
    """Of what decides what a network makes of an image, and how ranks share that."""
    packages = ("torch", "accelerate", "diffusers", "transformers")
    python = ".".join(map(str, sys.version_info[:2]))
    return {
        "calotype": __version__, **{name: version(name) for name in packages}, "Python": python,
    }  # fmt: skip


def by_main(work: Callable[[], T]) -> T:
    """What the main process finds, for all ranks; only there the work is done, and the others wait
    for it as long as it takes. It is something that pickles.

    Raises:
        Exception: on all ranks, what went wrong there.
    """
    state = processes()
    if state.num_processes == 1:
        return work()
    found: list[Any] = [None, None]
    try:
        found = [unhurried(work, 1, state.is_main_process), None]
    except LostError:
        raise
    except Exception as error:
        dist.broadcast_object_list([None, sendable(error)], 0, device=own_device())
        of_all(error)
        raise
    dist.broadcast_object_list(found, 0, device=own_device())
    result, error = found
    if error is not None:
        raise of_all(error)
    return result


def by_all(work: Callable[[], None]) -> None:
    """Let each rank do a work of its own, for as long as it takes.

    Raises:
        Exception: on all ranks, what went wrong on one of them.
    """
    own: list[Exception] = []
    try:
        unhurried(work, processes().num_processes, True)
    except LostError:
        raise
    except Exception as error:
        own.append(error)
    first = next(filter(None, gathered(sendable(own[0]) if own else None)), None)
    if first is not None:
        raise of_all(own[0] if own else first)


def of_main(read: Callable[[], Mapping[str, Tensors]]) -> dict[str, Tensors]:
    """The groups of tensors that the main process reads, for all ranks, in the memory of the CPU.

    Raises:
        Exception: on all ranks, what went wrong there.
    """
    own: Mapping[str, Tensors] = {}

    def shapes_of() -> dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]]:
        nonlocal own
        own = read()
        return {group: {name: (tuple(each.shape), each.dtype) for name, each in tensors.items()}
                for group, tensors in own.items()}  # fmt: skip

    shapes = by_main(shapes_of)
    if processes().num_processes == 1:
        return dict(own)
    return {
        group: {
            name: _broadcast(own.get(group, {}).get(name), *like) for name, like in names.items()
        }
        for group, names in shapes.items()
    }


def _broadcast(own: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As bytes: not every back end sends every type."""
    device = own_device()
    # Of no element there is no byte, and nothing to send.
    made = torch.empty(shape, dtype=dtype) if own is None else own.detach().cpu().contiguous()
    if not made.numel():
        return made
    data = made.reshape(-1).view(torch.uint8).to(device)
    dist.broadcast(data, 0)
    return data.cpu().view(dtype).view(shape)


def gathered(value: T) -> list[T]:
    """What each rank says, by rank."""
    count = processes().num_processes
    if count == 1:
        return [value]
    every: list[Any] = [None] * count
    dist.all_gather_object(every, value)
    return every
