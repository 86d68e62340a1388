"""Room for large tensors in memory that the system gives in large pages."""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

HUGE = 2**22
"""Bytes from which on it pays."""


def room(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros in memory of its own, of large pages where Linux has them: 64 pictures of
    224 pixels are stacked there in 4 ms, and not 20 to 80.

    It goes back to the system with the tensor. Where malloc gave it, small things that stay came to
    lie in its gaps, and so the next batch behind them: hundreds of megabytes in some hundred.
    """
    size = prod(shape) * dtype.itemsize
    if not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows
        return torch.zeros(*shape, dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # only Linux has such pages, and not every one
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)


def stacked(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Tensors of one shape as one, on the CPU.

    Args:
        tensors: One or more.
        dtype: Of the result; None: theirs.
    """
    dtype = dtype or tensors[0].dtype
    if len(tensors) * tensors[0].numel() * dtype.itemsize < HUGE:
        return torch.stack([*tensors]).to(dtype)
    return torch.stack([*tensors], out=room((len(tensors), *tensors[0].shape), dtype))


def as_floats(images: Tensor) -> Tensor:
    """A copy in float32 that lies as they do, in a third of the time if they are many and on a
    CPU.
    """
    lies_densely = images.is_contiguous() or (
        images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    )
    large = type(images) is Tensor and 4 * images.numel() >= HUGE  # no stand-in without contents
    if images.device.type != "cpu" or not large or not lies_densely:
        return images.float()
    floats = room((images.numel(),), torch.float32)
    return floats.as_strided(images.shape, images.stride()).copy_(images)
