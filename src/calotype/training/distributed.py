"""Who the ranks are, and what they say to one another within a step."""

import atexit

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor

from calotype.lazy import accelerate
from calotype.training.launcher import check_launcher


def on_cpu() -> bool:
    """Whether training runs on CPUs: by Accelerate's settings, or because there is nothing else."""
    return (
        accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU")
        or not torch.accelerator.is_available()
    )


def processes() -> "accelerate.PartialState":
    """Who this process is among its ranks: on CPUs Accelerate looks for others only when told.

    Raises:
        ValueError: the launcher asks for what calotype does not do.
    """
    check_launcher()
    return accelerate.PartialState(cpu=on_cpu())


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


@torch.no_grad()
def all_gather(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, one behind the other along the first axis."""
    if not (dist.is_available() and dist.is_initialized()):
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
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
