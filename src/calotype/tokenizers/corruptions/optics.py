"""Corruptions that draw nothing: what lenses, sensors and formats lose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.corruptions.base import Corrupted, Corruption, Images
from calotype.training.noise import Generators

LUMA = 0.299, 0.587, 0.114
"""Of red, green and blue in the luma."""
Small = Float[Tensor, "b c h w"]
"""Images of fewer pixels."""


@dataclass(frozen=True)
class Blur(Corruption):
    """Out of focus, by a Gaussian kernel."""

    sigma: float = 1.5
    """Standard deviation in pixels."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"corruption.sigma is {self.sigma}: it must be positive and finite")

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Blur."""
        return Corrupted(blurred(images, self.sigma))


@dataclass(frozen=True)
class Downsampling(Corruption):
    """Of a smaller picture, enlarged again: what super-resolution begins with."""

    factor: int = 4
    """By which the sides shrink, each pixel the mean of those that it covers."""

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"corruption.factor is {self.factor}: it must be 2 or more")

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Shrink, and enlarge by the bicubic rule.

        Raises:
            ValueError: a side is shorter than the factor.
        """
        if min(images.shape[-2:]) < self.factor:
            raise ValueError(
                f"corruption.factor is {self.factor}, and a side has {min(images.shape[-2:])} "
                "pixels: choose a smaller one"
            )
        return Corrupted(enlarged(averaged(images, self.factor), images.shape[-2:]))


@dataclass(frozen=True)
class Grey(Corruption):
    """Without colour: what colouring begins with. Grey pictures and alpha stay as they are."""

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Set each of three channels to the luma."""
        if images.shape[1] < 3:
            return Corrupted(images)
        return Corrupted(torch.cat([luma(images).expand(-1, 3, -1, -1), images[:, 3:]], dim=1))


@dataclass(frozen=True)
class JPEG(Corruption):
    """What JPEG leaves of a picture of 8 bits."""

    quality: int = 10
    """1 to 100."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"corruption.quality is {self.quality}: it lies between 1 and 100")

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Encode and decode; alpha, which JPEG knows not, stays."""
        from torchvision.transforms.v2 import functional

        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        seen = torch.stack([functional.jpeg(picture[:3], self.quality) for picture in pixels])
        return Corrupted(torch.cat([_scaled(seen).to(images), images[:, 3:]], dim=1))


def blurred(images: Images, sigma: float) -> Images:
    """Blurred by a Gaussian kernel of `sigma` pixels, six of them wide, or of what the picture has
    room for; with gradients, as all below.
    """
    from torchvision.transforms.v2 import functional

    room = 2 * min(images.shape[-2:]) - 1
    width = min(2 * round(3 * sigma) + 1, room)
    return functional.gaussian_blur(images, [width, width], [sigma] * 2)


def averaged(images: Images, factor: int) -> Small:
    """Of a side's pixels one for each `factor`, the mean of those that it covers."""
    sides = [side // factor for side in images.shape[-2:]]
    return F.interpolate(images, sides, mode="area")


def enlarged(images: Small, sides: Sequence[int]) -> Images:
    """Enlarged to a height and width by the bicubic rule, within [-1, 1]."""
    grown = F.interpolate(images, list(sides), mode="bicubic", align_corners=False)
    return grown.clamp(-1, 1)


def luma(images: Images) -> Float[Tensor, "b 1 H W"]:
    """The grey that stands for colours (ITU-R 601, as Pillow has it)."""
    return (images[:, :3] * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _scaled(pixels: Tensor) -> Tensor:
    return pixels / 127.5 - 1
