"""Distances between pixels: means over C*H*W, in units of images in [-1, 1].

`maps` of a spec says how many the decoder must emit for its term, for each channel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.terms.base import Pixelwise, Term


@dataclass(frozen=True)
class L1:
    """Mean absolute error: the median of what is possible, LDM's choice."""

    weight: float = 1.0

    maps = 1

    def build(self) -> Term:
        """Make the term."""
        return PixelTerm(F.l1_loss)


@dataclass(frozen=True)
class L2:
    """Mean squared error: the best PSNR, the blurriest image."""

    weight: float = 1.0

    maps = 1

    def build(self) -> Term:
        """Make the term."""
        return PixelTerm(F.mse_loss)


@dataclass(frozen=True)
class Huber:
    """Squared up to `delta`, absolute beyond (Huber 1964, divided by delta: the slope of large
    errors is L1's, so that weights of other terms keep their meaning).
    """

    weight: float = 1.0
    delta: float = 0.1
    """Error, of images in [-1, 1], at which the square ends."""

    maps = 1

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise ValueError(f"pixel.delta is {self.delta}: it must be positive")

    def build(self) -> Term:
        """Make the term."""
        return PixelTerm(partial(F.smooth_l1_loss, beta=self.delta))


class PixelTerm(Pixelwise):
    """One of torch's elementwise losses, averaged over each image."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def each(
        self, fake: Float[Tensor, "b c H W"], real: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b c H W"]:
        """That loss."""
        return self.loss(fake, real, reduction="none")
