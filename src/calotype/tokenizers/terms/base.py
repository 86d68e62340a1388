"""What makes a reconstruction good, one term at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Counted = Float[Tensor, "b 1 H W"] | None
"""1 where a pixel counts and 0 where it does not; None: all do."""


Scores = Callable[[Float[Tensor, "b maps H W"]], Float[Tensor, " b"]]


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
        self, fake: Float[Tensor, "b maps H W"], real: Float[Tensor, "b c H W"],
        counted: Counted = None,
    ) -> Float[Tensor, " b"]:  # fmt: skip
        """Score reconstructions of images in [-1, 1], where they count; smaller is better."""

    def beside(self, real: Float[Tensor, "b c H W"]) -> Scores:
        """Scores of several reconstructions of the same images; what a term computes of these, it
        computes once.
        """
        return lambda fake: self(fake, real)


class Pixelwise(Term):
    """A term that is a mean of what each value of each pixel scores."""

    @abstractmethod
    def each(
        self, fake: Float[Tensor, "b maps H W"], real: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b c H W"]:
        """Score each value."""

    def forward(
        self, fake: Float[Tensor, "b maps H W"], real: Float[Tensor, "b c H W"],
        counted: Counted = None,
    ) -> Float[Tensor, " b"]:  # fmt: skip
        """Average over channels and those pixels that count."""
        values = self.each(fake, real)
        if counted is None:
            return values.mean((1, 2, 3))
        share = counted.mean((1, 2, 3)).clamp_min(torch.finfo(values.dtype).tiny)
        return (values * counted).mean((1, 2, 3)) / share


def counting(
    fake: Float[Tensor, "b c H W"], real: Float[Tensor, "b c H W"], counted: Counted
) -> Float[Tensor, "b c H W"]:
    """Reconstructions that are the originals where they do not count, for judges that look at whole
    pictures.
    """
    return fake if counted is None else torch.where(counted > 0, fake, real)
