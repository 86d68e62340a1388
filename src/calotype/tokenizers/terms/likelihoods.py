"""Likelihoods of pixels: negative logarithms of normalised densities, in nats, so that with a
divergence of weight 1 the loss is a bound on that of the data (Kingma & Welling 2014, eq. 3).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from calotype.tokenizers.terms.base import Pixelwise
from calotype.tokenizers.terms.interval import Interval, Logits


class Likelihood(Pixelwise):
    """A term that scores values in nats.

    A mean over C*H*W, as every term of pixels; times C*H*W it is that of the picture.
    """

    @property
    @abstractmethod
    def level(self) -> float:
        """Logarithm of the width of one of 256 levels, in the units of its density; 0 where it is
        a probability.
        """

    def bits(self, nats: Tensor) -> Tensor:
        """Bits a dimension, of nats a dimension: what it takes to say which of 256 levels a value
        is, if the density is even within a level.
        """
        return (nats - self.level) / math.log(2)


@dataclass(frozen=True)
class FixedDeviation:
    """The same everywhere and always."""

    value: float = 0.1
    """Of images in [-1, 1]."""

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError(f"pixel.deviation.value is {self.value}: it must be positive")


@dataclass(frozen=True)
class LearntDeviation:
    """One number that is learnt (Rybkin et al. 2021, section 3.1)."""

    initial: float = 0.5
    """Of images in [-1, 1]."""

    def __post_init__(self) -> None:
        if self.initial <= 0:
            raise ValueError(f"pixel.deviation.initial is {self.initial}: it must be positive")


@dataclass(frozen=True)
class EmittedDeviation:
    """One for each value of each pixel, emitted by the decoder."""

    least: float = 0.01
    """Added to it. Where pictures are flat it would fall to nothing, and the likelihood rise
    without bound."""

    def __post_init__(self) -> None:
        if self.least <= 0:
            raise ValueError(f"pixel.deviation.least is {self.least}: it must be positive")


Deviation = FixedDeviation | LearntDeviation | EmittedDeviation


@dataclass(frozen=True)
class GaussianLikelihood:
    """Values are normal around the picture."""

    weight: float = 1.0
    deviation: Deviation = field(default_factory=FixedDeviation)

    @property
    def maps(self) -> int:
        """Of the decoder, for each channel."""
        return 2 if isinstance(self.deviation, EmittedDeviation) else 1

    def build(self) -> Likelihood:
        """Make the term."""
        if isinstance(self.deviation, EmittedDeviation):
            return EmittedGaussian(self.deviation.least)
        if isinstance(self.deviation, LearntDeviation):
            return GaussianTerm(self.deviation.initial, learnt=True)
        return GaussianTerm(self.deviation.value, learnt=False)


@dataclass(frozen=True)
class BernoulliLikelihood:
    """Values are black or white. Of others, as grey digits, the cross-entropy, which is of no
    normalised likelihood (Loaiza-Ganem & Cunningham 2019): not to be compared.
    """

    weight: float = 1.0
    epsilon: float = 0.05
    """Margin between [0, 1] and the probabilities of a decoder that emits pictures in [-1, 1];
    beyond these they go on to 0 and 1."""

    maps = 1

    def __post_init__(self) -> None:
        if not 0.001 <= self.epsilon < 0.5:
            raise ValueError(f"pixel.epsilon is {self.epsilon}: it lies in [0.001, 0.5)")

    def build(self) -> Likelihood:
        """Make the term."""
        return BernoulliTerm(Interval(self.epsilon))


@dataclass(frozen=True)
class BinaryLikelihood:
    """Pixels are black or white, and the decoder emits the logit of white, but for a factor: no
    value of it is hard to reach, where that of greys is steep at their ends. Of a network for
    pictures that have greys a decoded picture would be no picture: choose bernoulli-likelihood.
    """

    weight: float = 1.0
    bound: float = 5.0
    """The logit of white where the decoder emits 1: of what is black or white in [-1, 1] it leaves
    0.7 % to chance."""

    maps = 1

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise ValueError(f"pixel.bound is {self.bound}: it must be above 0")

    def build(self) -> Likelihood:
        """Make the term."""
        return BernoulliTerm(Logits(self.bound))

    def check(self, images: Float[Tensor, "b c H W"]) -> None:
        """Refuse pictures in [-1, 1] of other values than black and white, but for one of a
        hundred.

        Raises:
            ValueError: they have more.
        """
        if (greys := (images.abs() < 0.99).float().mean().item()) > 0.01:
            raise ValueError(
                f"pixel:binary-likelihood is of pixels that are black or white, and {greys:.0%} of "
                "the first pictures' values are neither: choose pixel:bernoulli-likelihood"
            )


class GaussianTerm(Likelihood):
    """One deviation for all values."""

    def __init__(self, deviation: float, learnt: bool) -> None:
        super().__init__()
        self.log_deviation = nn.Parameter(torch.tensor(math.log(deviation)), requires_grad=learnt)

    @property
    def level(self) -> float:
        """Of 256 in [-1, 1]."""
        return math.log(2 / 255)

    def each(
        self, fake: Float[Tensor, "b c H W"], real: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b c H W"]:
        """-ln of the density."""
        return _normal(real - fake, self.log_deviation)


class EmittedGaussian(Likelihood):
    """Reads a picture and, in as many more maps, ln (deviation - least)."""

    maps = 2

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = math.log(least)

    @property
    def level(self) -> float:
        """Of 256 in [-1, 1]."""
        return math.log(2 / 255)

    def each(
        self, fake: Float[Tensor, "b maps H W"], real: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b c H W"]:
        """-ln of the density."""
        picture, emitted = fake.chunk(2, dim=1)
        return _normal(real - picture, torch.logaddexp(emitted, emitted.new_full((), self.least)))


class BernoulliTerm(Likelihood):
    """Reads the logit of white off a picture in [-1, 1], so that a stock class decodes pictures."""

    def __init__(self, interval: Interval | Logits) -> None:
        super().__init__()
        self.interval = interval

    @property
    def level(self) -> float:
        """It is a probability: there are two levels."""
        return 0.0

    def each(
        self, fake: Float[Tensor, "b c H W"], real: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b c H W"]:
        """Cross-entropy to pixels, as probabilities of white."""
        logits = self.interval.location(fake)
        return F.binary_cross_entropy_with_logits(logits, (real + 1) / 2, reduction="none")


def _normal(error: Tensor, log_deviation: Tensor) -> Tensor:
    scaled = error * (-log_deviation).exp()
    return scaled.square() / 2 + log_deviation + math.log(2 * math.pi) / 2
