"""The machine: its processor, memory and devices, and the disks that matter."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from calotype.training.precision import in_hardware


@dataclass(frozen=True)
class Device:
    """An accelerator as torch sees it."""

    kind: str
    """torch's name for its type: cuda, xpu, mps."""
    name: str
    memory: int
    """Bytes."""
    free: int
    """Bytes that are free now."""
    capability: tuple[int, int] | None
    """Of CUDA; None: it has none."""


@dataclass(frozen=True)
class Machine:
    """What training would run on."""

    python: str
    system: str
    processor: str
    cores: int
    """That this process may use."""
    threads: int
    """That torch uses."""
    instructions: str
    """The widest that torch uses, such as AVX2."""
    bf16: bool
    """Whether torch says that the processor multiplies bf16 itself."""
    memory: int
    """Bytes that this process may use."""
    free: int
    """Bytes that are free now."""
    load: float
    """Programs that computed at once, over the last minute."""
    devices: tuple[Device, ...]
    """Accelerators; none: training runs on the processor."""
    cuda: str | None
    """Version of CUDA that torch was built with; None: without."""
    driver: str | None
    """Version of NVIDIA's driver; None: there is none."""


@dataclass(frozen=True)
class Disk:
    """Where a folder is, or would be."""

    folder: Path
    free: int
    """Bytes."""
    writable: bool


def machine() -> Machine:
    """Look at the machine."""
    memory, free = _memory()
    return Machine(
        platform.python_version(), f"{platform.system()} {platform.release()}", _processor(),
        _cores(), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(),
        in_hardware("bf16", torch.device("cpu")),
        memory, free, psutil.getloadavg()[0], devices(), torch.version.cuda, _driver(),
    )  # fmt: skip


def devices() -> tuple[Device, ...]:
    """The accelerators."""
    if not torch.accelerator.is_available():
        return ()
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    if kind.type == "mps":
        most = torch.mps.recommended_max_memory()
        used = torch.mps.driver_allocated_memory()
        return (Device("mps", _processor(), most, most - used, None),)
    module = torch.get_device_module(kind)
    found = []
    for number in range(torch.accelerator.device_count()):
        properties = module.get_device_properties(number)
        capability = module.get_device_capability(number) if kind.type == "cuda" else None
        free, memory = module.mem_get_info(number)
        found.append(Device(kind.type, properties.name, memory, free, capability))
    return tuple(found)


def disk(folder: Path) -> Disk:
    """The disk of a folder, which need not be there yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            writable = True
    except OSError:
        writable = False
    return Disk(folder, shutil.disk_usage(there).free, writable)


def _memory() -> tuple[int, int]:
    """Of the machine, or what a container leaves of it: bytes in all, and free."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    groups = Path("/sys/fs/cgroup")
    try:
        limit = int((groups / "memory.max").read_text())
        used = int((groups / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or no limit
        return total, free
    return min(total, limit), min(free, max(0, limit - used))


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _processor() -> str:
    if sys.platform == "darwin":
        name = _said("sysctl", "-n", "machdep.cpu.brand_string")
    else:
        name = _model(Path("/proc/cpuinfo"))
    return name or platform.processor() or platform.machine()


def _model(file: Path) -> str | None:
    if not file.exists():
        return None
    lines = file.read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
                None)  # fmt: skip


def _driver() -> str | None:
    said = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return said.splitlines()[0] if said else None


def _said(*command: str) -> str | None:
    """What a program says; None: there is none, or it fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
