"""Which timesteps are trained, and how often."""

from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.training.noise import Generators, normal, uniform


@dataclass(frozen=True)
class LogitNormal:
    """sigmoid of a normal number (Esser et al. 2024, eq. 19): the middle most often."""

    mean: float = 0.0
    std: float = 1.0

    def draw(self, generator: Generators) -> Tensor:
        """One time in (0, 1) per sample: [B] on the CPU; 0 is data, 1 is noise."""
        return torch.sigmoid(self.mean + self.std * normal(generator))


@dataclass(frozen=True)
class Uniform:
    """Every time as often as every other."""

    def draw(self, generator: Generators) -> Tensor:
        """One time in [0, 1) per sample: [B] on the CPU; 0 is data, 1 is noise."""
        return uniform(generator)
