"""Linear layers for few rows at a time."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
"""Of torch's, for which it has no public names."""


class PackedLinear:
    """Linear maps of one input, side by side as one, for inference.

    On a CPU the weights are held a second time, in the order in which oneDNN multiplies them: for
    the few rows of a sampler's step that is about three times as fast as `torch.nn.Linear`, which
    reads them unpacked each time. Elsewhere they are multiplied as they are.
    """

    def __init__(self, *weights: Float[Tensor, "_ in"]) -> None:
        self.weight = weights[0].detach() if len(weights) == 1 else torch.cat(weights).detach()
        self.packed = _pack(self.weight)

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Map the last axis."""
        # TorchInductor takes packed weights only where they are constants of its graph.
        if self.packed is None or torch.compiler.is_compiling():
            return functional.linear(x, self.weight)
        # What TorchInductor calls for a frozen linear layer; torch gives it no other name.
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


def _pack(weight: Float[Tensor, "out in"]) -> Tensor | None:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    if not all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS):
        return None
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    if weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
