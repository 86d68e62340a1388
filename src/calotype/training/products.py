"""How exact products of float32 numbers are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Products = Literal["exact", "tf32"]
"""TF32 keeps ten bits of each factor, and GPUs from NVIDIA's Ampere on multiply it several times as
fast as float32; on others, and on CPUs, it is float32. bf16 and fp16 it does not touch."""


@contextmanager
def products(how: Products) -> Iterator[None]:
    """While it is entered, products of float32 numbers are computed so, whatever was chosen before
    by either of torch's two ways to choose.
    """
    flags = _flags()
    before = [getattr(owner, name) for owner, name, _ in flags]
    for owner, name, values in flags:
        setattr(owner, name, values[how])
    try:
        yield
    finally:
        for (owner, name, _), was in zip(flags, before, strict=True):
            setattr(owner, name, was)


@contextmanager
def exact_products() -> Iterator[None]:
    """Without TF32, which is less exact than the latent contract."""
    with products("exact"):
        yield


def _flags() -> list[tuple[Any, str, dict[Products, Any]]]:
    backends, cpu = torch.backends, torch.backends.mkldnn
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # torch before 2.9
        choices: dict[Products, Any] = {"exact": False, "tf32": True}
        return [(owner, "allow_tf32", choices) for owner in (backends.cuda.matmul, backends.cudnn)]
    # Only this way: asked for by the older names, torch raises where the newer were used. Of CPUs
    # some would take bf16 for "medium".
    gpu: dict[Products, Any] = {"exact": "ieee", "tf32": "tf32"}
    owners = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    found = [(owner, "fp32_precision", gpu) for owner in owners]
    plain: dict[Products, Any] = {"exact": "ieee", "tf32": "ieee"}
    return found + [(owner, "fp32_precision", plain) for owner in (cpu.matmul, cpu.conv, cpu.rnn)]
