"""Noise that belongs to a sample, not to a process.

Every random number of a training step is drawn from a generator seeded by the sample's key. So
the noise is the same whichever rank, micro-batch or restart meets the sample: N ranks equal one
process with N times the batch, N accumulated steps equal one, and a resumed run equals the
uninterrupted one, with no generator state to save.

torch's CPU generator reads only the low 32 bits of its seed: whatever seeds one must be a hash, as
keys are, and not a number packed of several.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float

Generators = list[torch.Generator]


def generators(keys: Sequence[int]) -> Generators:
    """One CPU generator per sample: the noise is the same whatever the device."""
    return [torch.Generator().manual_seed(key) for key in keys]


def seed_ambient(seed: int, step: int, rank: int) -> None:
    """Seed the ambient generators anew for a rank's optimiser step: whatever draws from them
    (dropout) repeats itself too when a run is resumed.
    """
    words = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What was drawn on the CPU, on a device. From pinned memory it goes without anybody waiting
    for it.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def gaussian(
    shape: Sequence[int], generator: Generators, device: torch.device
) -> Float[torch.Tensor, "b ..."]:
    """Standard normal numbers on a device, `shape` of them for each sample by itself."""
    return sent(torch.stack([torch.randn(*shape, generator=g) for g in generator]), device)


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[None]:
    """What draws from the ambient generator of CPUs, as torchvision's transforms do, draws from a
    sample's own while this lasts.
    """
    ambient = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(ambient)


def uniform(generator: Generators) -> torch.Tensor:
    """One number in [0, 1) per sample: a float32 tensor [B] on the CPU."""
    return torch.stack([torch.rand((), generator=g) for g in generator])


def normal(generator: Generators) -> torch.Tensor:
    """One standard normal number per sample: a float32 tensor [B] on the CPU."""
    return torch.stack([torch.randn((), generator=g) for g in generator])
