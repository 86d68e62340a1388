"""Distances between pixels: means over C*H*W, in units of images in [-1, 1]."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.terms.base import Term


@dataclass(frozen=True)
class L1:
    """Mean absolute error: the median of what is possible, LDM's choice."""

    weight: float = 1.0

    def build(self) -> Term:
        """Make the term."""
        return PixelTerm(F.l1_loss)


@dataclass(frozen=True)
class L2:
    """Mean squared error: the best PSNR, the blurriest image."""

    weight: float = 1.0

    def build(self) -> Term:
        """Make the term."""
        return PixelTerm(F.mse_loss)


@dataclass(frozen=True)
class Huber:
    """Squared up to `delta`, absolute beyond (Huber 1964)."""

    weight: float = 1.0
    delta: float = 0.1
    """Error, of images in [-1, 1], at which the square ends."""

    def build(self) -> Term:
        """Make the term."""
        return PixelTerm(F.huber_loss, delta=self.delta)


class PixelTerm(Term):
    """One of torch's elementwise losses, averaged over each image."""

    def __init__(self, loss, **options: float) -> None:
        super().__init__()
        self.loss, self.options = loss, options

    def forward(
        self, fake: Float[Tensor, "b 3 H W"], real: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, " b"]:
        """Average over channels and pixels."""
        return self.loss(fake, real, reduction="none", **self.options).mean((1, 2, 3))
