"""Where networks compute, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from calotype.lazy import accelerate
from calotype.training.distributed import own_device, processes
from calotype.training.precision import DTYPES, Name, Precision, settled, warn_of_emulation


@dataclass(frozen=True, kw_only=True)
class Computation:
    """Where a command computes, and how exactly.

    Raises:
        ValueError: this machine has no such device.
    """

    precision: Precision = "auto"
    """Of the networks' products. auto: bf16 where the device multiplies it in hardware, else
    fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto: a CUDA device where there is one, else the CPU."""

    def __post_init__(self) -> None:
        device_named(self.device)

    @property
    def place(self) -> torch.device:
        """The device; each rank has one of its own.

        Raises:
            ValueError: one is named for several ranks.
        """
        named = device_named(self.device)
        if named.type == "cpu" or (count := processes().num_processes) == 1:
            return named
        if named.index is not None:
            raise ValueError(
                f"--device is {self.device}, and each of {count} processes has a device of its "
                "own: leave it out"
            )
        return own_device()

    @property
    def exactness(self) -> Name:
        """The precision, chosen."""
        return settled(self.precision, self.place)

    def warn_of_emulation(self) -> None:
        """Say what a precision costs that is asked for by name where it is emulated."""
        if self.precision != "auto":
            warn_of_emulation(self.exactness, self.place)


def device_named(name: str) -> torch.device:
    """A device of this machine; auto: a CUDA device where there is one, else the CPU.

    Raises:
        ValueError: this machine has none of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = available()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not {str(device), f"{device}:0"} & {*here}:
        raise ValueError(f"--device is {name}, which is not here: choose from {', '.join(here)}")
    return device


def available() -> list[str]:
    """Names of this machine's devices."""
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*found, "mps:0"] if torch.backends.mps.is_available() else found


@contextmanager
def computing(precision: Precision, device: torch.device, *networks: nn.Module) -> Iterator[None]:
    """While it is entered, networks compute in a precision, by autocast, when they are called: what
    they give, and all that is computed around them, is float32.
    """
    exactness = settled(precision, device)
    if exactness == "fp32":
        yield
        return
    cast: Any = torch.autocast(device.type, DTYPES[exactness])
    before = [network.__dict__.get("forward") for network in networks]
    for network in networks:
        network.forward = accelerate.utils.convert_outputs_to_fp32(cast(network.forward))
    try:
        yield
    finally:
        for network, was in zip(networks, before, strict=True):
            del network.forward  # back to the class's
            if was is not None:
                network.forward = was


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """While it is entered, the CPU computes with so many threads; None: as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
