"""What is done to pictures before the encoder sees them."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from calotype.training.noise import Generators

Images = Float[Tensor, "b c H W"]


class Corrupted(NamedTuple):
    """What became of a batch."""

    images: Images
    """What the encoder sees, about [-1, 1]."""
    counted: Float[Tensor, "b 1 H W"] | None = None
    """1 where a pixel of the reconstruction counts in the loss, 0 where it does not; None: all
    do."""


class Corruption(ABC):
    """A spec of how pictures are spoilt; the tokenizer is still to give back clean ones (Vincent et
    al. 2008, section 2.3). It is its own function, for there is nothing to be learnt in it.
    """

    @abstractmethod
    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Spoil clean images in [-1, 1]; what is random is drawn from one generator for each."""


def check_share(name: str, share: float) -> None:
    """Refuse what is no part of a whole.

    Raises:
        ValueError: it is not between 0 and 1, both left out.
    """
    if not 0 < share < 1:
        raise ValueError(f"{name} is {share}: it lies between 0 and 1")


def check_level(value: float) -> None:
    """Refuse what hidden pixels cannot be set to.

    Raises:
        ValueError: it is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"corruption.value is {value}: it must be finite")
