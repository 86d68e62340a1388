"""What makes a reconstruction good, one term at a time."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Term(nn.Module, ABC):
    """Compares reconstructions with their images.

    Values are per sample and never averaged over the batch, so that a batch repeated keeps its
    value. The loop calls terms by float32 images, under training's autocast: networks compute in
    its precision, values are float32.
    """

    maps: int = 1
    """How many of the decoder's maps it reads for each of an image's channels; the first of them
    all are the image in [-1, 1].
    """

    @abstractmethod
    def forward(
        self, fake: Float[Tensor, "b maps H W"], real: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, " b"]:
        """Score reconstructions of images in [-1, 1]; smaller is better."""
