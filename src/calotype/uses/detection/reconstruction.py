"""What a tokenizer rebuilds badly: it was trained on normal pictures, and others it may not know.

It may know them all the same. A network that rebuilds what is hard rebuilds what is simple, so that
reconstruction alone fails one way: trained on simple pictures it tells complex ones, and trained on
complex ones it does not tell simple ones (Finke et al. 2021; Dillon et al. 2021; Bouman & Heskes
2025).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.tokenizers.terms.perceptual import PerceptualTerm
from calotype.uses.detection.encoded import Encoded
from calotype.uses.detection.score import Looked, Read

WINDOW = 7
"""Pixels a side of the windows of SSIM, of smaller pictures fewer."""
STEADY = 0.01, 0.03
"""SSIM's constants, of levels in [0, 1]."""


class PixelError(Read):
    """The squared difference of pixels, a mean over channels."""

    unit = "squared levels of [-1, 1]"

    def look(self, pictures: Encoded) -> Looked:
        """Compare."""
        apart = (pictures.images - pictures.rebuilt).square()
        return apart.mean(1, keepdim=True).float()


class StructuralError(Read):
    """1 - SSIM in a square window around each pixel (Wang et al. 2004; Bergmann et al. 2018): what
    is rebuilt with less contrast or another pattern, however dark it is.
    """

    def look(self, pictures: Encoded) -> Looked:
        """Compare; in [0, 2]."""
        return 1 - similarity(pictures.images.float(), pictures.rebuilt.float())


class PerceptualError(Read):
    """LPIPS, before it is averaged over places.

    Args:
        term: With its backbone.
    """

    def __init__(self, term: PerceptualTerm) -> None:
        self.term = term

    @torch.no_grad()
    def look(self, pictures: Encoded) -> Looked:
        """Compare."""
        return self.term.everywhere(pictures.rebuilt, pictures.images)


def similarity(
    a: Float[Tensor, "b c H W"], b: Float[Tensor, "b c H W"], window: int = WINDOW
) -> Float[Tensor, "b 1 H W"]:
    """SSIM around each pixel of images in [-1, 1], a mean over channels; what lies outside of an
    image does not count. It is of levels in [0, 1], as means below 0 make nonsense of its term of
    brightness.
    """
    window = min(window, min(a.shape[-2:]) // 2 * 2 - 1)
    c1, c2 = (each**2 for each in STEADY)
    a, b = (x.clamp(-1, 1) / 2 for x in (a, b))  # levels less 1/2, for rounding's sake

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)

    mean_a, mean_b = mean(a), mean(b)
    together = mean(a * b) - mean_a * mean_b
    spread = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    light_a, light_b = mean_a + 0.5, mean_b + 0.5
    found = (2 * light_a * light_b + c1) * (2 * together + c2)
    return (found / ((light_a**2 + light_b**2 + c1) * (spread + c2))).mean(1, keepdim=True)
