"""In which order an image's tokens are learnt."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from calotype.training.noise import Generators, uniform


@dataclass(frozen=True)
class Raster:
    """Row by row, as they are drawn."""

    def shuffled(self, step: int) -> float:
        """Fraction of the images whose order is a random one."""
        return 0.0


@dataclass(frozen=True)
class Annealed:
    """At first in random orders, one for each image, then ever more of them row by row (Yu et al.
    2024, section 3.3): early tokens learn to heed those that will stand behind them.

    While that lasts the model is told by a vector which place it is asked for; the vectors fade
    with the random orders, so that what remains is the stock model. There the paper keeps them, as
    a part of its positions.
    """

    begin: int = 125_000
    """Optimiser steps until which every order is random."""
    end: int = 187_500
    """Optimiser steps from which none is; their fraction falls evenly between."""

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end:
            raise ValueError(f"order: begin is {self.begin} and end {self.end}; 0 <= begin < end")

    def shuffled(self, step: int) -> float:
        """Fraction of the images whose order is a random one."""
        return min(1.0, max(0.0, (self.end - step) / (self.end - self.begin)))


Order = Raster | Annealed


def draw_orders(fraction: float, sites: int, generator: Generators) -> Int[Tensor, "b sites"]:
    """For each image the sites in the order in which they are learnt, on the CPU."""
    chosen = uniform(generator) < fraction
    random = torch.stack([torch.randperm(sites, generator=g) for g in generator])
    return torch.where(chosen[:, None], random, torch.arange(sites))
