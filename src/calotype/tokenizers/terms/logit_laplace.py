"""The likelihood of pixels, which lie in an interval (Ramesh et al. 2021, appendix A.3)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.terms.base import Term
from calotype.tokenizers.terms.interval import Interval
from calotype.tokenizers.terms.likelihoods import Likelihood


@dataclass(frozen=True)
class LogitLaplace:
    """Negative log-likelihood of images under a Laplace distribution of their logits, whose scale
    the decoder emits too, as a second map of each channel.

    Raises:
        ValueError: `epsilon` leaves no interval.
    """

    weight: float = 1.0
    epsilon: float = 0.1
    """Margin between [0, 1] and the interval into which pixels are squeezed: the logit is finite
    there, and above 0.001 accurate in float32."""

    least_scale: float = 0.0
    """Added to b. Where pictures are flat, as drawn ones are, b falls to nothing, and what is there
    to be learnt elsewhere weighs as little."""

    maps = 2

    def __post_init__(self) -> None:
        if not self.least_scale >= 0:
            raise ValueError(f"pixel.least_scale is {self.least_scale}: it must be 0 or more")
        if not 0.001 <= self.epsilon < 0.5:
            raise ValueError(f"pixel.epsilon is {self.epsilon}: it lies in [0.001, 0.5)")

    def build(self) -> Term:
        """Make the term."""
        return LogitLaplaceTerm(self.epsilon, self.least_scale)


class LogitLaplaceTerm(Likelihood):
    """Reads a picture and, in as many more maps, ln (b - least_scale).

    The density of x in (0, 1) is f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)). The
    published decoder emits mu, and the picture is read off it; here it emits the picture, and mu
    is read off that, so that a stock class decodes pictures.
    """

    maps = 2

    def __init__(self, epsilon: float, least_scale: float = 0.0) -> None:
        super().__init__()
        self.interval, self.least_scale = Interval(epsilon), least_scale

    @property
    def level(self) -> float:
        """Of 256 in [epsilon, 1 - epsilon]."""
        return math.log((1 - 2 * self.interval.epsilon) / 255)

    def each(
        self, fake: Float[Tensor, "b maps H W"], real: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b c H W"]:
        """-ln f in nats; it may be negative."""
        picture, log_b = fake.chunk(2, dim=1)
        x = self.interval.squeeze(real)
        error = (x.logit() - self.interval.location(picture)).abs()
        if self.least_scale:
            log_b = torch.logaddexp(log_b, log_b.new_full((), math.log(self.least_scale)))
        return math.log(2) + log_b + x.log() + (1 - x).log() + error * (-log_b).exp()
