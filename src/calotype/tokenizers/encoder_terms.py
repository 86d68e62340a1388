"""What an encoder pays by itself, whatever is decoded."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from calotype.tokenizers.gradients import Images
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training.noise import Generators
from calotype.training.precision import UNSCALED


class Seen(NamedTuple):
    """What an encoder term may look at."""

    clean: Images
    """The batch's, in [-1, 1]."""
    corrupted: Images
    """What is encoded in their place; where there is no corruption, the same."""
    generators: Generators
    """One for each image, of all that is random."""
    scaler: GradScaler = UNSCALED
    """Of the run's losses, for gradients that are taken on the way."""


class EncoderTerm(ABC):
    """A spec of a term of the encoder; it is its own function, for it has nothing to learn.

    What it looks at it encodes anew, without a draw and without the bottleneck's noticing.
    """

    weight: float
    compares: bool = False
    """Whether an image's value depends on which others are in its batch: as for bottlenecks."""

    @abstractmethod
    def __call__(self, tokenizer: ImageTokenizer, seen: Seen) -> Float[Tensor, " b"]:
        """Score each image, weighted, as it goes into the loss; smaller is better."""
