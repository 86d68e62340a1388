"""Gradients that are taken at images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from calotype.training.precision import UNSCALED, gradient

Images = Float[Tensor, "b c H W"]


def squared_gradient(
    logits: Float[Tensor, "b 1 h w"], images: Images,
    scaler: GradScaler = UNSCALED,
) -> Float[Tensor, " b"]:  # fmt: skip
    """|d (mean logit) / d image|^2 summed over each image, itself differentiable."""
    scores = logits.mean((1, 2, 3)).sum()
    return gradient(scores, images, scaler, create_graph=True).square().sum((1, 2, 3))


class WithGradient(torch.autograd.Function):
    """A scalar whose gradient with respect to a tensor has been computed already."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor, gradient: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(gradient)
        ctx.dtype = tensor.dtype
        return value.clone()

    @staticmethod
    def backward(  # type: ignore[override]  # noqa: D102
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[0] * gradient).to(ctx.dtype), None, None


@contextmanager
def captured_input(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer reads while this lasts, pass by pass."""
    captured: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        yield captured
    finally:
        handle.remove()
