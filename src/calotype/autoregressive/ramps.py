"""How guidance grows while an image is drawn."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The same scale for every token."""

    def at(self, scale: float, done: float) -> float:
        """The scale."""
        return scale


@dataclass(frozen=True)
class Linear:
    """From no guidance at the first token evenly to the whole scale (Chang et al. 2023, section
    2.7).
    """

    def at(self, scale: float, done: float) -> float:
        """The scale where `done`, in [0, 1), of the image is there."""
        return 1 + (scale - 1) * done


@dataclass(frozen=True)
class PowerCosine:
    """From none to the whole scale along half a cosine over a power of what is done (Yu et al.
    2024, appendix; their B model has a scale of 16 and a power of 2.75): little at first, where
    guidance makes images alike.
    """

    power: float = 2.75
    """The larger, the later the scale grows."""

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"sampling.ramp.power is {self.power}: it must be positive")

    def at(self, scale: float, done: float) -> float:
        """The scale where `done`, in [0, 1), of the image is there."""
        return 1 + (scale - 1) * (1 - math.cos(math.pi * done**self.power)) / 2


Ramp = Constant | Linear | PowerCosine
