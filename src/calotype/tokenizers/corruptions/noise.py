"""Corruptions pixel by pixel (Vincent et al. 2010, section 3.1)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.corruptions.base import (
    Corrupted,
    Corruption,
    Images,
    check_level,
    check_share,
)
from calotype.training.noise import Generators, gaussian, sent


@dataclass(frozen=True)
class GaussianNoise(Corruption):
    """Normal noise added to each value; the sum is not clipped, so that its mean is the picture."""

    sigma: float = 0.5
    """Standard deviation, of images in [-1, 1]: half of it on [0, 1], 127.5 times it of 8 bits."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"corruption.sigma is {self.sigma}: it must be positive and finite")

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Add it."""
        noise = gaussian(images.shape[1:], generators, images.device)
        return Corrupted(images + self.sigma * noise.to(images))


@dataclass(frozen=True)
class Masking(Corruption):
    """Pixels, all channels of each, that are set to one value."""

    share: float = 0.3
    """Of pixels."""
    value: float = -1.0
    """Which they are set to: black, for images in [-1, 1]."""

    def __post_init__(self) -> None:
        check_share("corruption.share", self.share)
        check_level(self.value)

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Set them."""
        hit = _chances(images, generators) < self.share
        return Corrupted(torch.where(hit, self.value, images))


@dataclass(frozen=True)
class SaltAndPepper(Corruption):
    """Pixels, all channels of each, that become white or black, as many of either."""

    share: float = 0.2
    """Of pixels."""

    def __post_init__(self) -> None:
        check_share("corruption.share", self.share)

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Set them."""
        chance = _chances(images, generators)
        extreme = torch.where(chance < self.share / 2, 1.0, -1.0).to(images)
        return Corrupted(torch.where(chance < self.share, extreme, images))


def _chances(images: Images, generators: Generators) -> Float[Tensor, "b 1 H W"]:
    """A number in [0, 1) for each pixel."""
    drawn = [torch.rand(1, *images.shape[2:], generator=g) for g in generators]
    return sent(torch.stack(drawn), images.device)
