"""Norms in the precision of what they read."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype.training.precision import Name


def keep_in_bf16(modules: Iterable[nn.Module], name: Name, device: torch.device) -> None:
    """Let group and layer norms that read bf16 answer in it. CUDA's autocast makes them, and with
    them the activation behind each, float32, and a tokenizer's step takes half as much memory
    again; a CPU's does not, and what its bf16 costs in quality is measured (benchmarks/README.md).
    Their kernels sum in float32 in either.
    """
    if device.type != "cuda" or name != "bf16":  # fp16 has not the range
        return
    for module in modules:
        if type(module) in (nn.GroupNorm, nn.LayerNorm):  # others have reasons of their own
            module.forward = partial(_normed, module)  # type: ignore[method-assign]


def _normed(norm: nn.GroupNorm | nn.LayerNorm, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = (None if p is None else p.to(x.dtype) for p in (norm.weight, norm.bias))
        if isinstance(norm, nn.LayerNorm):
            return functional.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
        return functional.group_norm(x, norm.num_groups, weight, bias, norm.eps)
