"""How many bits pictures take, and how far they are from what they were."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from calotype.evaluation.distortion import Originals
from calotype.evaluation.reconstructions import EXACT_DB
from calotype.tokenizers.terms.base import Term

Images = UInt8[Tensor, "b c H W"]
There = Callable[[Images], tuple[list[int], Images]]
"""Bytes of each picture's file, and what came back."""


@dataclass
class Rate:
    """Of one codec at one quality, over all pictures."""

    codec: str
    quality: str
    """Empty where it has one alone."""
    pictures: int = 0
    pixels: int = 0
    bytes: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, sizes: Sequence[int], found: Mapping[str, Tensor], pixels: int) -> None:
        """Count pictures in, of so many pixels each."""
        self.pictures += len(sizes)
        self.pixels += pixels * len(sizes)
        self.bytes += sum(sizes)
        for name, values in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + values.double().sum().item()

    @property
    def bits_per_pixel(self) -> float:
        """Of whole files, their heads too."""
        return 8 * self.bytes / self.pixels

    @property
    def figures(self) -> dict[str, float]:
        """Means over pictures: PSNR in dB, SSIM, LPIPS."""
        return {name: total / self.pictures for name, total in self.sums.items()}


def measure(
    rates: Sequence[Rate], ways: Sequence[There], images: Images, lpips: Mapping[str, Term]
) -> None:
    """Compress pictures each way and bring them back, and count what that took and cost."""
    originals = Originals(images, lpips)
    for rate, there in zip(rates, ways, strict=True):
        sizes, back = there(images)
        found = originals.distortion(back)
        # A picture that came back exactly has no finite PSNR, and a mean of several has none.
        found["psnr_db"] = found["psnr_db"].clamp(max=EXACT_DB)
        rate.add(sizes, found, images.shape[2] * images.shape[3])


def saved(rate: Rate, others: Sequence[Rate], figure: str) -> float | None:
    """Part of the bits that another codec needs for the same figure, and this one does not: its
    bits lie between two of its qualities, on a line of their logarithm. Below 0: it needs fewer.
    None: none of its qualities is as good, or as bad.
    """
    value = rate.figures[figure]
    line = sorted((other.figures[figure], math.log2(other.bits_per_pixel)) for other in others)
    values, bits = (np.array(each) for each in zip(*line, strict=True))
    if not values[0] <= value <= values[-1]:
        return None
    return 1 - rate.bits_per_pixel / 2 ** float(np.interp(value, values, bits))
