"""How fast something runs and how much memory it takes."""

import contextlib
import ctypes
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True)
class Speed:
    """Of a call that was repeated."""

    seconds: float
    """The median."""
    peak_mib: float
    """Most memory held beyond what was held before: the device's allocator's, or on a CPU the
    process's resident memory, looked at every few milliseconds."""


def speed(call: Callable[[], object], device: torch.device, repeats: int = 5) -> Speed:
    """Call once to warm up and `repeats` times more."""
    with Peak(device) as peak:
        call()
        taken = [_seconds(call, device) for _ in range(repeats)]
    return Speed(statistics.median(taken), peak.mib)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Peak:
    """Memory's peak between entering and leaving."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.mib = device, 0.0
        self._stop = threading.Event()

    def __enter__(self) -> "Peak":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        _give_back()
        self._process = psutil.Process()
        self._before = self._most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._stop.wait(0.005):
            self._most = max(self._most, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self._most = torch.cuda.max_memory_allocated(self.device)
        else:
            self._stop.set()
            self._thread.join()
        self.mib = (self._most - self._before) / 2**20


def _give_back() -> None:
    """Let glibc return what was freed before, or new memory would hide in it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
