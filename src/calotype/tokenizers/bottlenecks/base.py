"""The contract between an encoder, a bottleneck and a decoder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from calotype.training.noise import Generators


@dataclass(frozen=True)
class Latent:
    """What a bottleneck makes of an encoder's output."""

    z: Float[Tensor, "b c h w"]
    """What the decoder reads."""
    ids: Int[Tensor, "b h w"] | None
    """The code at each site; None where the latent space is continuous."""
    terms: dict[str, Float[Tensor, " b"]]
    """Weighted terms of the loss, in nats per image: sums over the latent sites."""


class Bottleneck(nn.Module, ABC):
    """Everything between `quant_conv` and `post_quant_conv`. Subclass it to add a family."""

    z_channels: int
    """Channels of z, which the decoder will read."""

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
