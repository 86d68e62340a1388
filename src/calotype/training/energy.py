"""The energy that the devices of a run draw, where they count it and let it be read."""

import ctypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from calotype.training.distributed import own_device, processes

POWERCAP = Path("/sys/class/powercap")
"""Where Linux has the counters of Intel's and AMD's processors (RAPL); many let only root read."""
NVML = "libnvidia-ml.so.1"
"""The library of NVIDIA's driver that reads those of its GPUs, from Volta on."""


class Packages:
    """All processors of this machine, from when it was made on, whoever used them.

    Raises:
        OSError, ValueError: they do not count it, or it may not be read.
    """

    def __init__(self, root: Path) -> None:
        self.counters = [folder for folder in sorted(root.glob("intel-rapl:*"))
                         if re.fullmatch(r"intel-rapl:\d+", folder.name)
                         and (folder / "name").read_text().startswith("package")]  # fmt: skip
        if not self.counters:
            raise OSError(f"no counters of energy in {root}")
        self.limits = [_number(folder / "max_energy_range_uj") for folder in self.counters]
        self.last, self.total = self._read(), 0

    def _read(self) -> list[int]:
        return [_number(folder / "energy_uj") for folder in self.counters]

    def joules(self) -> float:
        """What they have drawn; to be asked within a counter's turn, some minutes at full load."""
        now = self._read()
        for last, value, limit in zip(self.last, now, self.limits, strict=True):
            self.total += (value - last) % (limit + 1)
        self.last = now
        return self.total / 1e6


class Cards:
    """Some GPUs of NVIDIA's, from when it was made on, whoever used them.

    Raises:
        OSError: they do not count it, or the driver's library is not there.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        self.library: Any = ctypes.CDLL(NVML)
        self._ask("nvmlInit_v2")
        self.handles = [ctypes.c_void_p() for _ in indices]
        for index, handle in zip(indices, self.handles, strict=True):
            # Its own numbers are not those of CUDA_VISIBLE_DEVICES.
            name = f"GPU-{torch.cuda.get_device_properties(index).uuid}".encode()
            self._ask("nvmlDeviceGetHandleByUUID", name, ctypes.byref(handle))
        self.first = self._read()

    def _ask(self, function: str, *arguments: Any) -> None:
        if code := getattr(self.library, function)(*arguments):
            raise OSError(f"{function} answers {code}")

    def _read(self) -> int:
        total = 0
        for handle in self.handles:
            value = ctypes.c_ulonglong()
            self._ask("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(value))
            total += value.value
        return total

    def joules(self) -> float:
        """What they have drawn."""
        return (self._read() - self.first) / 1e3


def meter() -> Packages | Cards | None:
    """Of the devices that this run's processes train on, begun now; None: it cannot be read, or
    some are in other machines.
    """
    count, device = processes().num_processes, own_device()
    if int(os.environ.get("LOCAL_WORLD_SIZE", count)) != count:
        return None
    try:
        if device.type == "cpu":
            return Packages(POWERCAP)
        if device.type == "cuda":
            return Cards(range(count) if count > 1 else [device.index or 0])
    except (OSError, ValueError, AttributeError):
        pass
    return None


def _number(file: Path) -> int:
    return int(file.read_text())
