"""How fast a device computes what training is made of, in each precision: measured in seconds."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, silu

from calotype.evaluation.needs import Needs
from calotype.training.precision import DTYPES

SECONDS = 0.2
"""For which each is measured, or once where that takes longer."""
LONG_ENOUGH = 0.02
"""Seconds of a call that are not mostly the price of calling."""
LARGEST = 1024
"""Times that the smallest work is enlarged at most, on a device that is never busy for so long."""
REAL = 0.8
"""Of float32's speed: what has less is not computed by the device's own instructions."""


@dataclass(frozen=True)
class Products:
    """Of one precision, in FLOP/s, forward and back."""

    convolution: float
    matrix: float


@dataclass(frozen=True)
class Throughput:
    """Of one device."""

    products: dict[str, Products]
    """By precision; one that the device refuses is left out. float32 is always there."""
    moved: float
    """Bytes per second that an operation on elements, such as SiLU, reads and writes."""
    call: float
    """Seconds that an operation on next to nothing takes."""

    def ratio(self, precision: str) -> float | None:
        """Its speed beside float32's, where it gains least; None: the device refuses it."""
        if precision not in self.products:
            return None
        these, full = self.products[precision], self.products["fp32"]
        return min(these.convolution / full.convolution, these.matrix / full.matrix)

    def is_real(self, precision: str) -> bool:
        """Whether the device computes it itself, and not by way of another."""
        return (self.ratio(precision) or 0) >= REAL

    def seconds(self, needs: Needs, precision: str) -> float:
        """About how long one micro-batch takes."""
        speed = self.products[precision]
        return (
            needs.convolution_flops / speed.convolution
            + needs.product_flops / speed.matrix
            + needs.moved / self.moved
            + needs.operations * self.call
        )


def throughput(device: torch.device) -> Throughput:
    """Measure a device; takes a few seconds, also where a precision is only emulated."""
    products = {}
    for name, dtype in DTYPES.items():
        try:
            products[name] = Products(
                _rate(lambda n, d=dtype: _convolution(n, d, device)),
                _rate(lambda n, d=dtype: _matrix(n, d, device)),
            )
        except RuntimeError:  # not implemented there
            if dtype == torch.float32:
                raise
    # Activations of small recipes, which a CPU's allocator reuses; an accelerator wants more. What
    # lies between products is mostly as costly as SiLU, which networks of images have everywhere.
    many, few = (torch.zeros(n, device=device) for n in (_elements(device), 8))
    return Throughput(products, 2 * 4 * len(many) / _seconds(lambda: silu(many)), _seconds(few.neg))


Work = tuple[Callable[[], object], float]
"""A call, and how much of it there is."""


def _rate(enlarged: Callable[[int], Work]) -> float:
    """Work a second, of as much at once as takes some time, so that nothing takes very long."""
    times = 1
    while True:
        call, amount = enlarged(times)
        call()  # what is set up at the first call is not asked for
        taken = _seconds(call)
        if taken >= LONG_ENOUGH or times >= LARGEST:
            return amount / taken
        times = min(LARGEST, times * max(2, int(LONG_ENOUGH / taken)))


def _seconds(call: Callable[[], object]) -> float:
    """Of one call, when all that it started has ended: the median of calls for some time."""
    taken, several = [], 1
    while sum(taken) < SECONDS:
        started = time.perf_counter()
        for _ in range(several):
            call()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - started)
        if taken[-1] < SECONDS / 100:  # so short that the clock and the waiting count
            taken, several = [], 10 * several
    return statistics.median(taken) / several


def _convolution(times: int, dtype: torch.dtype, device: torch.device) -> Work:
    """3x3 over 32 sites a side, of channels as recipes for such devices have them."""
    channels = 64 if device.type == "cpu" else 256
    x, weight = (
        torch.full(shape, 0.01, dtype=dtype, device=device, requires_grad=True)
        for shape in ((times, channels, 32, 32), (channels, channels, 3, 3))
    )
    flops = 3 * 2 * 9 * channels**2 * 32 * 32 * times
    return lambda: _back(conv2d(x, weight, padding=1), x, weight), flops


def _matrix(times: int, dtype: torch.dtype, device: torch.device) -> Work:
    """Of 128 rows and more by 512 columns."""
    width, rows = 512, 128 * times
    x, weight = (
        torch.full((n, width), 0.01, dtype=dtype, device=device, requires_grad=True)
        for n in (rows, width)
    )
    return lambda: _back(x @ weight, x, weight), 3 * 2 * rows * width**2


def _back(out: Tensor, *factors: Tensor) -> object:
    return torch.autograd.grad(out, factors, out.detach())


def _elements(device: torch.device) -> int:
    return 2**20 if device.type == "cpu" else 2**26
