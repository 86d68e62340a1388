"""What a run computes in."""

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from calotype.training.distributed import all_gather, own_device

Name = Literal["bf16", "fp16", "fp32"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
"""What may be asked for; auto: what suits the device."""
NAMES: tuple[Name, ...] = ("bf16", "fp16", "fp32")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SCALE = 1.0
"""A loss that overflows float16 unscaled is beyond what scaling mends."""


@dataclass(frozen=True)
class Chosen:
    """What is computed in; weights, losses and averages are float32 in any."""

    name: Name
    reason: str
    """Why it was chosen."""


def suits(device: torch.device) -> Chosen:
    """What `auto` is on a device: bf16 where it multiplies that in hardware, else fp32."""
    if in_hardware("bf16", device):
        return Chosen("bf16", f"{described(device)} multiplies it in hardware")
    return Chosen("fp32", f"{described(device)} has no bf16 in hardware")


def settled(precision: Precision, device: torch.device) -> Name:
    """What a precision is on a device; auto: bf16 where it is multiplied in hardware, else fp32."""
    return suits(device).name if precision == "auto" else precision


def chosen(
    asked: Precision, begun: Name | None, device: torch.device, out: Path,
) -> Chosen:  # fmt: skip
    """What a run computes in: what is asked for by name, or else what it began in, or else what
    suits the device.

    Args:
        asked: By the recipe.
        begun: What the run began in; None: it begins now.
        device: What it runs on.
        out: The run's folder, for what is said.

    Raises:
        ValueError: it goes on, and the device only emulates what it began in.
    """
    if asked != "auto":
        return Chosen(asked, "asked for by name")
    if begun is None:
        return suits(device)
    if not in_hardware(begun, device):
        raise ValueError(
            f"{out} was begun in {begun}, which {described(device)} has not in hardware: go on "
            "here with --run.precision fp32 (of demo and quickstart --precision; weights are "
            "float32 in either), or on a machine that has it"
        )
    return Chosen(begun, "the run was begun in it")


def in_hardware(name: Name, device: torch.device) -> bool:
    """Whether a device multiplies such numbers itself, by its own account."""
    if name == "fp32":
        return True
    if device.type == "cpu":
        ask = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
        return ask is not None and ask() and (name != "bf16" or _multiplies_bf16())
    if name == "fp16":
        return True
    if device.type == "cuda" and not torch.version.hip:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    ask = getattr(torch.get_device_module(device.type), "is_bf16_supported", None)
    return ask is not None and ask()


def _multiplies_bf16() -> bool:
    """Of a CPU for which oneDNN has bf16: it does for any with AVX-512, and where that has no
    products of bf16 it takes three times as long as in fp32.
    """
    here = {name: getattr(torch.cpu, f"_is_{name}_supported", None)
            for name in ("avx512", "avx512_bf16", "amx_tile")}  # fmt: skip
    found = {name for name, ask in here.items() if ask is not None and ask()}
    return found != {"avx512"}


def described(device: torch.device) -> str:
    """A device in words: `this CPU (AVX2)`, `Tesla T4 (capability 7.5)`."""
    if device.type == "cpu":
        return f"this CPU ({torch.backends.cpu.get_cpu_capability()})"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (capability {major}.{minor})"
    return f"device {device.type}"


def warn_of_emulation(name: Name, device: torch.device) -> None:
    """Say what a precision costs that was asked for by name where it is emulated: measured, in
    about a second.
    """
    if not in_hardware(name, device):
        convolution, product = slowness(name, device)
        warnings.warn(
            f"precision {name}: {described(device)} only emulates it; just now a convolution took "
            f"{convolution:.3g} times as long as in fp32, a matrix product {product:.3g} times. "
            "Precision auto is what suits",
            stacklevel=2,
        )


@torch.no_grad()
def slowness(name: Name, device: torch.device) -> tuple[float, float]:
    """How many times as long as in fp32 a small convolution and a matrix product take; measured."""
    low, exact = (
        [seconds(call(DTYPES[n], device), device) for call in (_convolution, _product)]
        for n in (name, "fp32")
    )
    return low[0] / exact[0], low[1] / exact[1]


def _convolution(dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    image = torch.ones(4, 32, 32, 32, dtype=dtype, device=device)
    kernel = torch.ones(32, 32, 3, 3, dtype=dtype, device=device)
    return lambda: torch.conv2d(image, kernel, padding=1)


def _product(dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    matrix = torch.ones(256, 256, dtype=dtype, device=device)
    return lambda: matrix @ matrix


def seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    """The best of a few calls behind one that warms up; reading a number waits for the device."""
    call().sum().item()
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        call()[..., 0].sum().item()
        taken.append(time.perf_counter() - began)
    return min(taken)


def agreed(name: Name) -> Name:
    """What the main rank has chosen, on every rank."""
    index = torch.tensor([NAMES.index(name)], device=own_device())
    return NAMES[int(all_gather(index)[0])]


def autocast(name: Name, device: torch.device) -> AbstractContextManager[object]:
    """Within this context torch computes in a precision what it deems safe in it."""
    return nullcontext() if name == "fp32" else torch.autocast(device.type, DTYPES[name])


def loss_scaling(name: Name, device: torch.device) -> GradScaler:
    """What keeps small gradients from vanishing in float16; of other precisions it does nothing."""
    return GradScaler(device.type, enabled=name == "fp16")


def ease(scaler: GradScaler) -> bool:
    """Behind a step that was not finite: halve the scale if a gradient overflowed. Returns whether
    there was room to, so that the next step may be finite.
    """
    before = scaler.get_scale()
    scaler.update()
    if scaler.get_scale() < LEAST_SCALE:
        scaler.update(LEAST_SCALE)
    return scaler.get_scale() < before


UNSCALED = GradScaler(enabled=False)
"""Scales nothing."""


def gradient(
    value: Tensor, at: Tensor, scaler: GradScaler = UNSCALED, create_graph: bool = False
) -> Tensor:
    """The gradient of a value, on its way scaled as losses are, or it would vanish in float16.

    Args:
        value: A scalar.
        at: A float32 tensor that it was computed from.
        scaler: Of the run.
        create_graph: The gradient will itself be differentiated.
    """
    scale = scaler.scale(torch.ones_like(value))
    # Going back each operation has its precision already.
    with torch.autocast(at.device.type, enabled=False):
        (found,) = torch.autograd.grad(value, at, scale, create_graph=create_graph)
        return found / scale
