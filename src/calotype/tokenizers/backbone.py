"""The convolutional encoder and decoder around a bottleneck: diffusers' own."""

from dataclasses import dataclass
from typing import Any

from calotype.tokenizers.bottlenecks import Autoencoder, BottleneckSpec


@dataclass(frozen=True)
class Backbone:
    """Width and depth of encoder and decoder (Rombach et al. 2022, section 3.1 and appendix G)."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each resolution; each after the first halves the image's side, so that the
    factor is 2 ** (len(widths) - 1)."""
    layers: int = 2
    """Residual blocks per resolution; the decoder has one more."""
    attention: bool = True
    """Self-attention in the middle blocks, at the latent's resolution."""
    last_attention: bool = False
    """Self-attention in the blocks of the last resolution too (LDM's f16 and f32)."""
    groups: int = 32
    """Groups of each GroupNorm; must divide every width."""

    def __post_init__(self) -> None:
        if not self.widths or self.groups < 1 or self.layers < 1:
            raise ValueError(
                "backbone.widths needs one width or more, backbone.groups and backbone.layers must "
                "be at least 1"
            )
        for width in self.widths:
            if width < 1 or width % self.groups:
                raise ValueError(
                    f"backbone.groups is {self.groups} and does not divide the width {width}: "
                    "choose groups that divide every one of backbone.widths"
                )

    def autoencoder(
        self, bottleneck: BottleneckSpec, size: int, channels: int = 3, maps: int = 1
    ) -> Autoencoder:
        """A stock autoencoder with fresh weights for images of `size` pixels a side and `channels`,
        whose decoder emits `maps` for each of these.
        """
        return bottleneck.autoencoder(
            sample_size=size, in_channels=channels, out_channels=channels * maps,
            **(self.of_encoder() | self.of_decoder()),
        )  # fmt: skip

    def of_encoder(self) -> dict[str, Any]:
        """What diffusers' encoder is made by."""
        down = ["DownEncoderBlock2D"] * len(self.widths)
        if self.last_attention:
            down[-1] = "AttnDownEncoderBlock2D"
        return {"down_block_types": tuple(down), **self._common}

    def of_decoder(self) -> dict[str, Any]:
        """What diffusers' decoder is made by."""
        up = ["UpDecoderBlock2D"] * len(self.widths)
        if self.last_attention:
            up[0] = "AttnUpDecoderBlock2D"
        return {"up_block_types": tuple(up), **self._common}

    @property
    def _common(self) -> dict[str, Any]:
        return {
            "block_out_channels": self.widths, "layers_per_block": self.layers,
            "norm_num_groups": self.groups, "mid_block_add_attention": self.attention,
        }  # fmt: skip
