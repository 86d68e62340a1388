"""The control that asks for no network: a linear autoencoder of raw pixels (PCA)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.uses.detection.densities import Principal, Residual
from calotype.uses.detection.encoded import Encoded
from calotype.uses.detection.score import Looked, Score

SIDE = 32
"""Pixels a side of the copy that is read, at most."""


class PrincipalPixels(Score):
    """The squared difference of pixels from what the principal subspace of normal pictures keeps,
    a mean over channels, of a copy of `SIDE` pixels a side at most.

    Args:
        density: Which subspace.
    """

    unit = "squared levels of [-1, 1]"

    def __init__(self, density: Principal | None = None) -> None:
        self.density = density or Principal()
        self._fitted: Residual | None = None

    def look(self, pictures: Encoded) -> Looked:
        """Take a small copy."""
        images = pictures.images.float()
        if max(images.shape[-2:]) > SIDE:
            scale = SIDE / max(images.shape[-2:])
            high, wide = (max(1, round(side * scale)) for side in images.shape[-2:])
            images = functional.adaptive_avg_pool2d(images, (high, wide))
        return images

    def learn(self, normal: Looked) -> None:
        """Find the subspace."""
        self._fitted = self.density.fit(normal.flatten(1))

    @torch.no_grad()
    def judge(self, looked: Looked) -> Float[Tensor, "n h w"]:
        """Measure what is left out.

        Raises:
            ValueError: nothing was learnt.
        """
        if self._fitted is None:
            raise ValueError("this score has learnt nothing: call fit with normal pictures first")
        return self._fitted.left(looked.flatten(1)).view_as(looked).square().mean(1)
