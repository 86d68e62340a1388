"""What keeps few units of a latent responding: a penalty, a rate, or a number."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.tokenizers.bottlenecks.base import check_weight

INSIDE = 1e-4
"""How near to 0 and 1 the mean of an activity is taken to come, so that logarithms are finite."""


@dataclass(frozen=True)
class L1Activity:
    """Units are rectified and pay for what they say, so that most say nothing at all: what a small
    response costs outweighs what it tells.
    """

    weight: float = 0.5
    """Of the mean activity."""

    first_mean = 0.0
    remedy = "choose a smaller bottleneck.sparsity.weight, or fewer bottleneck.channels"

    def __post_init__(self) -> None:
        check_weight("bottleneck.sparsity.weight", self.weight)

    def check(self, channels: int) -> None:
        """Any number of units will do."""

    def activity(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Rectified."""
        return h.relu()

    def responding(self, z: Float[Tensor, "b c h w"]) -> Bool[Tensor, "b c h w"]:
        """Whatever is not 0."""
        return z > 0

    def penalties(
        self, z: Float[Tensor, "b c h w"], mean: Float[Tensor, " c"]
    ) -> dict[str, Float[Tensor, " b"]]:
        """Mean activity."""
        return {"sparsity": self.weight * z.mean((1, 2, 3))}


@dataclass(frozen=True)
class KLRate:
    """Units lie in (0, 1) and are held to one mean over the data: by the divergence of a coin that
    falls so from one of each unit's mean (Ng 2011, section 3).

    Means are running averages over all ranks' pictures, because those of a batch are biased. A
    picture pays the divergence there, and along its slope to where the picture is: one value for
    each, whose gradient is the divergence's.
    """

    weight: float = 5.0
    """Of the divergence in nats, a mean over units."""
    rate: float = 0.05
    """Mean activity that is wanted."""

    remedy = "choose a larger bottleneck.sparsity.weight, or fewer bottleneck.channels"

    def __post_init__(self) -> None:
        check_weight("bottleneck.sparsity.weight", self.weight)
        if not 0 < self.rate < 1:
            raise ValueError(f"bottleneck.sparsity.rate is {self.rate}: it lies between 0 and 1")

    @property
    def first_mean(self) -> float:
        """As if all was well: until something is known nothing is paid."""
        return self.rate

    def check(self, channels: int) -> None:
        """Any number of units will do."""

    def activity(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Between 0 and 1."""
        return h.sigmoid()

    def responding(self, z: Float[Tensor, "b c h w"]) -> Bool[Tensor, "b c h w"]:
        """What is above the mean that is wanted."""
        return z > self.rate

    def penalties(
        self, z: Float[Tensor, "b c h w"], mean: Float[Tensor, " c"]
    ) -> dict[str, Float[Tensor, " b"]]:
        """The divergence."""
        p, q = self.rate, mean.clamp(INSIDE, 1 - INSIDE)
        there = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        slope = (1 - p) / (1 - q) - p / q
        paid = there + slope * (z.mean((2, 3)) - q)
        return {"sparsity": self.weight * paid.mean(1)}


@dataclass(frozen=True)
class TopK:
    """Of each site's units the largest are kept, and all others are 0 (Makhzani & Frey 2014,
    section 2.1): nothing is paid.
    """

    units: int = 16
    """k, which are kept."""

    first_mean = 0.0
    remedy = "choose more bottleneck.sparsity.units, or fewer bottleneck.channels"

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError(f"bottleneck.sparsity.units is {self.units}: it must be at least 1")

    def check(self, channels: int) -> None:
        """Refuse to keep all.

        Raises:
            ValueError: there are no more units than are kept.
        """
        if self.units >= channels:
            raise ValueError(
                f"bottleneck.sparsity.units is {self.units}, and there are {channels} "
                "bottleneck.channels: keep fewer than there are"
            )

    def activity(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The largest as they are."""
        largest = h.topk(self.units, dim=1)
        return torch.zeros_like(h).scatter(1, largest.indices, largest.values)

    def responding(self, z: Float[Tensor, "b c h w"]) -> Bool[Tensor, "b c h w"]:
        """Whatever was kept."""
        return z != 0

    def penalties(
        self, z: Float[Tensor, "b c h w"], mean: Float[Tensor, " c"]
    ) -> dict[str, Float[Tensor, " b"]]:
        """None."""
        return {}


Sparsity = L1Activity | KLRate | TopK
