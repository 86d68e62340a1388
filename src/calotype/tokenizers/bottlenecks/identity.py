"""No more than fewer numbers: what the encoder emits is what the decoder reads."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.tokenizers.bottlenecks.gaussian import orthogonal_waist
from calotype.training.noise import Generators

CERTAIN = -30.0
"""Logarithm of a variance that adds nothing to a float32; diffusers clips at it."""


@dataclass(frozen=True)
class Identity:
    """A plain autoencoder (Hinton & Salakhutdinov 2006): a latent of fewer numbers than the picture
    has, or a penalty, is all that keeps it from copying. What it is drawn from is not known: to
    draw pictures, fit a prior to its latents.
    """

    channels: int = 4
    """Channels of z."""
    orthogonal: bool = False
    """Whether the layers around z begin with orthogonal weights, as `Gaussian` says."""

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"bottleneck.channels is {self.channels}: it must be at least 1")

    @property
    def inputs(self) -> int:
        """Channels that it is given; of an AutoencoderKL's two for each of z it reads the mean."""
        return 2 * self.channels

    def build(self) -> "IdentityBottleneck":
        """Make the bottleneck."""
        return IdentityBottleneck(self)

    def autoencoder(self, **settings: Any) -> "diffusers.AutoencoderKL":
        """A stock AutoencoderKL around it, whose posteriors are certain."""
        model = diffusers.AutoencoderKL(
            latent_channels=self.channels, scaling_factor=1.0, **settings
        )
        if self.orthogonal:
            orthogonal_waist(model)
        return model


class IdentityBottleneck(Bottleneck):
    """Hands the mean on; float32."""

    def __init__(self, spec: Identity) -> None:
        super().__init__()
        self.spec = spec
        self.z_channels = spec.channels

    def forward(self, h: Float[Tensor, "b in h w"], generator: Generators | None = None) -> Latent:
        """The mean; nothing is drawn, and nothing is paid."""
        return Latent(self.mode(h))

    def mode(self, h: Float[Tensor, "b in h w"]) -> Float[Tensor, "b c h w"]:
        """The mean."""
        return h.float()[:, : self.z_channels]

    def pack(self, h: Float[Tensor, "b in h w"]) -> Float[Tensor, "b c h w"]:
        """The mean."""
        return self.mode(h)

    def unpack(
        self, packed: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The same."""
        return packed.float()

    def stock_weights(self, autoencoder: nn.Module) -> dict[str, Tensor]:
        """Of an AutoencoderKL whose posterior's variance is nothing, whatever it sees."""
        weight, bias = (autoencoder.get_parameter(f"quant_conv.{part}").detach().clone()
                        for part in ("weight", "bias"))  # fmt: skip
        weight[self.z_channels :], bias[self.z_channels :] = 0, CERTAIN
        return {"quant_conv.weight": weight, "quant_conv.bias": bias}
