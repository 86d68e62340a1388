"""Pixels in the open unit interval, and their logits."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Logits:
    """Pictures that are logits of white but for a factor: `bound` where they are 1."""

    bound: float

    def location(self, picture: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The logit."""
        return self.bound * picture


@dataclass(frozen=True)
class Interval:
    """From [-1, 1] to [epsilon, 1 - epsilon] (Ramesh et al. 2021, appendix A.3)."""

    epsilon: float

    def squeeze(self, pixels: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """phi: from [-1, 1] to [epsilon, 1 - epsilon]."""
        return (1 - 2 * self.epsilon) * (pixels + 1) / 2 + self.epsilon

    def location(self, picture: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The logit of the squeezed picture; beyond [-1, 1], where no pixel lies, it goes on
        along its tangents, so that every logit has its picture and no gradient vanishes.
        """
        within = picture.clamp(-1, 1)
        slope = (1 - 2 * self.epsilon) / (2 * self.epsilon * (1 - self.epsilon))
        return self.squeeze(within).logit() + slope * (picture - within)
