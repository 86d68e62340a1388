"""What is paid for a posterior's divergence from the prior: the whole of it, its distance from a
capacity, or its parts.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.bottlenecks.base import check_weight
from calotype.training.distributed import all_gather_with_gradient, own_place
from calotype.training.schedules import Linear, Schedule

LOG_2PI = math.log(2 * math.pi)


class Drawn(NamedTuple):
    """Posteriors of a batch, what was drawn from them, and how far each is from the prior."""

    mean: Float[Tensor, "b c h w"]
    log_variance: Float[Tensor, "b c h w"]
    z: Float[Tensor, "b c h w"]
    divergence: Float[Tensor, " b"]
    """Kullback-Leibler divergence to N(0, 1), in nats per image."""


class Paid(NamedTuple):
    """What it costs."""

    nats: Float[Tensor, " b"]
    """For each image, before its weight."""
    metrics: dict[str, Float[Tensor, ""]]
    """Worth logging."""


@dataclass(frozen=True)
class Whole:
    """The divergence itself; a weight above 1 is the beta of Higgins et al. 2017."""

    compares = False

    def paid(self, drawn: Drawn, step: int) -> Paid:
        """All of it."""
        return Paid(drawn.divergence, {})


@dataclass(frozen=True)
class Capacity:
    """How far an image's divergence is from a capacity that grows (Burgess et al. 2018, eq. 8): so
    much may be said of it and no more, and `kl_weight` is their gamma. Each image is held to it by
    itself, as the equation has it; code that takes the distance of the batch's mean lets images
    differ.
    """

    nats: Schedule = field(default_factory=lambda: Linear(0.0, 25.0, 100_000))
    """Of an image, by optimiser step."""

    compares = False

    def __post_init__(self) -> None:
        if not self.nats.least >= 0:
            raise ValueError(
                f"bottleneck.divergence.nats reaches {self.nats.least}: it must be 0 or more"
            )

    def paid(self, drawn: Drawn, step: int) -> Paid:
        """The distance."""
        capacity = drawn.divergence.new_full((), self.nats.at(step))
        return Paid((drawn.divergence - capacity).abs(), {"capacity": capacity})


@dataclass(frozen=True)
class Decomposed:
    """The divergence's three parts, each by its own weight, of which `kl_weight` is a factor (Chen
    et al. 2018, eq. 2): beta-TCVAE, by the defaults. Made for latents that are vectors; of maps
    every number of every site is a dimension, and the cost of all pairs grows with them.

    An image's share depends on which others are in its batch, of all ranks together. It is still
    one value for each, of its own z, and what the others lend to it is where their posteriors are.
    """

    pictures: int
    """In the data set: q(z) is a mixture of as many posteriors, of which a batch is a sample."""
    mutual_information: float = 1.0
    """alpha, of the information that z has about which image it is of."""
    total_correlation: float = 6.0
    """beta, of what the dimensions of z say of one another."""
    dimension_wise: float = 1.0
    """gamma, of each dimension's divergence from N(0, 1)."""

    compares = True

    def __post_init__(self) -> None:
        if self.pictures < 2:
            raise ValueError(
                f"bottleneck.divergence.pictures is {self.pictures}: it must be 2 or more"
            )
        for name in ("mutual_information", "total_correlation", "dimension_wise"):
            check_weight(f"bottleneck.divergence.{name}", getattr(self, name))

    def paid(self, drawn: Drawn, step: int) -> Paid:
        """The parts' sum, and each one's mean over this rank's images."""
        of_image, joint, marginals, prior = log_densities(drawn, self.pictures)
        parts = {
            "mutual_information": of_image - joint,
            "total_correlation": joint - marginals,
            "dimension_wise": marginals - prior,
        }
        nats = torch.stack([getattr(self, name) * part for name, part in parts.items()]).sum(0)
        return Paid(nats, {name: part.detach().mean() for name, part in parts.items()})


Divergence = Whole | Capacity | Decomposed


class LogDensities(NamedTuple):
    """Of each image's z, in nats."""

    of_image: Float[Tensor, " b"]
    """log q(z | the image)."""
    joint: Float[Tensor, " b"]
    """log q(z), estimated."""
    marginals: Float[Tensor, " b"]
    """Sum over dimensions of log q(z_j), estimated."""
    prior: Float[Tensor, " b"]
    """log N(z; 0, 1)."""


def log_densities(drawn: Drawn, pictures: int) -> LogDensities:
    """Estimate log q(z) by stratified sampling (Chen et al. 2018, appendix C.2): in a data set of N
    the image itself stands for 1 / N of the mixture, and the M others of all ranks' batches for the
    rest, each for (N - 1) / (N M). The published weights single one of the others out; these have
    the same expectation, less variance, and no order.

    Raises:
        ValueError: a step has more images than the data set, or one alone.
    """
    own_mean, own_log_variance, z = (part.flatten(1) for part in drawn[:3])
    moments = torch.stack([own_mean, own_log_variance], 1)
    mean, log_variance = all_gather_with_gradient(moments).unbind(1)
    batch, own = len(mean), torch.arange(len(z), device=z.device)
    if not 2 <= batch <= pictures:
        raise ValueError(
            f"bottleneck.divergence.pictures is {pictures}, and a step has {batch} images: choose "
            "a run.batch_size from 2 to as many as there are"
        )
    each = _log_normal(z[:, None], mean, log_variance)  # (b, batch of all ranks, dimensions)
    others = math.log((pictures - 1) / pictures / (batch - 1))
    weights = z.new_full((len(z), batch), others)
    weights[own, own + own_place(len(z))] = -math.log(pictures)
    return LogDensities(
        _log_normal(z, own_mean, own_log_variance).sum(1),
        (weights + each.sum(2)).logsumexp(1),
        (weights[..., None] + each).logsumexp(1).sum(1),
        _log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1),
    )


def _log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    return -((z - mean).square() * (-log_variance).exp() + log_variance + LOG_2PI) / 2
