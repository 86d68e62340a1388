"""The contract between an encoder, a bottleneck and a decoder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from calotype.training.noise import Generators
from calotype.training.objective import Batch, Rows

WAIST = ("encoder.conv_out", "quant_conv", "post_quant_conv", "decoder.conv_in")
"""Layers around the bottleneck, whose channels are its own."""


@dataclass(frozen=True)
class Latent:
    """What a bottleneck makes of an encoder's output."""

    z: Float[Tensor, "b c h w"]
    """What the decoder reads."""
    ids: Int[Tensor, "b ..."] | None = None
    """The code at each site, or codes; None where the latent space is continuous."""
    rates: dict[str, Float[Tensor, " b"]] = field(default_factory=dict)
    """Weighted terms in nats per image, sums over the latent sites: the loss has them divided by
    the image's C*H*W, as its pixel terms are."""
    penalties: dict[str, Float[Tensor, " b"]] = field(default_factory=dict)
    """Weighted terms that are means over the latent elements and go into the loss as they are."""
    divergence: Float[Tensor, " b"] | None = None
    """Kullback-Leibler divergence of what z was drawn from to its prior, in nats per image, without
    any weight; None: z has no prior."""


def check_weight(name: str, value: float) -> None:
    """Refuse a loss that would be sought instead of avoided.

    Raises:
        ValueError: the weight is below 0, or no number.
    """
    if not value >= 0:
        raise ValueError(f"{name} is {value}: it must be 0 or more")


class Bottleneck(nn.Module, ABC):
    """Everything between `quant_conv` and `post_quant_conv`. Subclass it to add a family."""

    spec: Any
    """What it was built from."""
    exported: bool = True
    """Whether a stock class does the same around a map."""
    may_scale: bool = True
    """Whether z may be shifted and scaled by the layers around it, as `fold` does; not where its
    numbers are counts, bits or points of a surface."""
    has_prior: bool = False
    """Whether latents stay drawn from what has the prior that `weigh` knows, also once trained;
    `sample_prior` then draws from it."""
    z_channels: int
    """Channels of z, which the decoder will read."""
    metrics: dict[str, Tensor]
    """Detached scalars worth logging."""
    observing: bool
    """Whether training passes count; off where a step looks ahead at passes that it takes again."""
    taken: int
    """Optimiser steps of earlier runs, from which schedules and memories go on."""

    @property
    def compares(self) -> bool:
        """Whether an image's terms depend on which others are in its batch: then a step's images
        must be in one micro-batch of each rank.
        """
        return False

    def __init__(self) -> None:
        super().__init__()
        self.metrics, self.observing, self.taken = {}, True, 0

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Bottleneck":
        """Go to another device with the modules around it, but stay in float32 where those are
        halved: codes rounded otherwise are other codes.
        """
        return super()._apply(lambda tensor: tensor.to(fn(tensor.new_empty(0)).device), recurse)

    def told(self, batch: Batch) -> dict[str, Tensor]:
        """What of a batch, beside its pictures, `forward` is given in training, by name.

        Raises:
            ValueError: the data does not have it.
        """
        return {}

    @abstractmethod
    def forward(self, h: Float[Tensor, "b in h w"], generator: Generators | None = None) -> Latent:
        """Squeeze encoder features through, with gradients. What is random is drawn from
        `generator`, one per sample; None: from the ambient one.
        """

    @abstractmethod
    def mode(self, h: Float[Tensor, "b in h w"]) -> Float[Tensor, "b c h w"]:
        """The likeliest z: nothing is drawn."""

    @abstractmethod
    def pack(self, h: Float[Tensor, "b in h w"]) -> Num[Tensor, "b ..."]:
        """Reduce encoder features to what is worth keeping on disk. Deterministic."""

    @abstractmethod
    def unpack(
        self, packed: Num[Tensor, "b ..."], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Turn what `pack` kept back into a z; may draw a sample."""

    def weigh(
        self, h: Float[Tensor, "b in h w"], generator: Generators | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
        """Draw z, and say ln p(z) - ln q(z | h) of it in nats: what importance sampling needs.

        Raises:
            ValueError: z has no prior.
        """
        raise ValueError(f"{type(self).__name__} has no prior, so that no likelihood is known")

    def stock_weights(self, autoencoder: nn.Module) -> dict[str, Tensor]:
        """Weights by which a stock class around it differs from the autoencoder that is trained."""
        return {}

    def latent_state(self) -> dict[str, Tensor]:
        """What decides on latents, beside the autoencoder's weights."""
        return {f"bottleneck.{name}": value for name, value in self.state_dict().items()}

    def wants_survey(self, micro_batches: int) -> bool:
        """Whether this step needs `survey`, which costs an encoding of all its images."""
        return False

    def survey(self, features: Sequence[Float[Tensor, "b in h w"]], keys: Sequence[int]) -> None:
        """Look at the features of all of a rank's micro-batches, before the step's first pass."""

    def step_begin(self, step: int) -> None:
        """Follow schedules: `step` counts finished optimiser steps."""

    def step_end(self) -> Rows:
        """Update statistics, once per optimiser step, on every rank; returns what was set anew."""
        return []

    def warning(self) -> str | None:
        """What a person should know at once; None: nothing."""
        return None

    def step_skipped(self) -> None:
        """Forget what this step has gathered."""
