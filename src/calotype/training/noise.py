"""Noise that belongs to a sample, not to a process.

Every random number of a training step is drawn from a generator seeded by the sample's key. So
the noise is the same whichever rank, micro-batch or restart meets the sample: N ranks equal one
process with N times the batch, N accumulated steps equal one, and a resumed run equals the
uninterrupted one, with no generator state to save.
"""

from collections.abc import Sequence

import torch

Generators = list[torch.Generator]


def generators(keys: Sequence[int]) -> Generators:
    """One CPU generator per sample, ready for diffusers' `randn_tensor(generator=...)`."""
    return [torch.Generator().manual_seed(key) for key in keys]


def uniform(generator: Generators) -> torch.Tensor:
    """One number in [0, 1) per sample: a float32 tensor [B] on the CPU."""
    return torch.stack([torch.rand((), generator=g) for g in generator])


def normal(generator: Generators) -> torch.Tensor:
    """One standard normal number per sample: a float32 tensor [B] on the CPU."""
    return torch.stack([torch.randn((), generator=g) for g in generator])
