"""Who the ranks are, and what they say to one another within a step."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor

from calotype.lazy import accelerate
from calotype.training.launcher import check_launcher

PATIENCE = 600.0
"""Seconds."""


def patience() -> timedelta:
    """How long ranks wait for one another in one exchange; CALOTYPE_TIMEOUT says it, in seconds.

    Raises:
        ValueError: it is no positive number.
    """
    given = os.environ.get("CALOTYPE_TIMEOUT", PATIENCE)
    try:
        found = timedelta(seconds=float(given))
    except (ValueError, OverflowError):
        found = timedelta(0)
    if not found > timedelta(0):
        raise ValueError(f"CALOTYPE_TIMEOUT is {given!r}: give seconds, a number above 0")
    return found


def on_cpu() -> bool:
    """Whether training runs on CPUs: by Accelerate's settings, or because there is nothing else."""
    return (
        accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU")
        or not torch.accelerator.is_available()
    )


def processes() -> "accelerate.PartialState":
    """Who this process is among its ranks: on CPUs Accelerate looks for others only when told.

    Raises:
        ValueError: the launcher asks for what calotype does not do, or CALOTYPE_TIMEOUT is wrong.
    """
    check_launcher()
    return accelerate.PartialState(cpu=on_cpu(), timeout=patience())


def own_device() -> torch.device:
    """Where this process trains."""
    device = processes().device
    assert device is not None  # of a state that has begun
    return device


@atexit.register
def leave() -> None:
    """Part from the other ranks: a process that merely ends sometimes aborts in gloo's threads."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process hears of no other: what fails here keeps nobody waiting."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _among_others() -> bool:
    return dist.is_available() and dist.is_initialized() and not _ALONE.get()


@torch.no_grad()
def all_gather(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, one behind the other along the first axis."""
    if not _among_others():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def all_gather_with_gradient(tensor: Tensor) -> Tensor:
    """As `all_gather`; what the tensors of all ranks do to any rank's loss comes back to each.

    Where the gradient of the ranks' mean loss is the ranks' mean of gradients, as in data
    parallelism, so is that of what compares the samples of all ranks with one another.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    return torch.cat(dist_nn.all_gather(tensor.contiguous()))


def own_place(count: int) -> int:
    """Where this rank's samples begin among those of all ranks, each of which has so many."""
    several = dist.is_available() and dist.is_initialized()
    return dist.get_rank() * count if several else 0


@torch.no_grad()
def all_mean(tensor: Tensor) -> Tensor:
    """The mean over ranks; the tensor itself where there is one process."""
    return all_sum(tensor) / dist.get_world_size() if _among_others() else tensor


@torch.no_grad()
def all_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks."""
    total = tensor.clone()
    if _among_others():
        dist.all_reduce(total)
    return total
