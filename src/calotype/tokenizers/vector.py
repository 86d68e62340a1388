"""Autoencoders whose latent is a vector: a map of one site, so that all that is made for maps holds
for it. No stock class has them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import prod
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.backbone import Backbone
from calotype.tokenizers.bottlenecks import BottleneckSpec
from calotype.training.description import describe, restore

Activation = Literal["relu", "silu", "tanh", "sigmoid", "none"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "none": nn.Identity,
}  # fmt: skip


@dataclass(frozen=True)
class Dense:
    """Plain layers from all pixels to a vector and back (Hinton & Salakhutdinov 2006)."""

    widths: tuple[int, ...] = (256, 256)
    """Units of the encoder's hidden layers; the decoder's are the same in reverse; none: it is
    linear, and ends in the principal subspace (Baldi & Hornik 1989)."""
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.widths):
            raise ValueError(f"backbone.widths is {self.widths}: each must be at least 1")

    def autoencoder(
        self, bottleneck: BottleneckSpec, size: int, channels: int = 3, maps: int = 1
    ) -> "VectorAutoencoder":
        """One with fresh weights for images of `size` pixels a side, whose decoder emits `maps`
        for each of their channels.
        """
        return VectorAutoencoder(self, _shape(bottleneck, size, channels, maps))

    def encoder(self, shape: "Shape") -> nn.Module:
        """Images to a vector of one site."""
        widths = (prod(shape.image), *self.widths)
        layers = [layer for pair in pairwise(widths) for layer in self._layer(*pair)]
        return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (widths[0], 1, 1)), *layers)

    def decoder(self, shape: "Shape") -> "VectorDecoder":
        """Back."""
        widths = (shape.z, *reversed(self.widths))
        layers = [layer for pair in pairwise(widths) for layer in self._layer(*pair)]
        return VectorDecoder(nn.Sequential(*layers), Emit(widths[-1], shape.maps))

    def features(self, shape: "Shape") -> int:
        """Channels that the encoder emits."""
        return self.widths[-1] if self.widths else prod(shape.image)

    def _layer(self, before: int, after: int) -> Sequence[nn.Module]:
        return nn.Conv2d(before, after, 1), ACTIVATIONS[self.activation]()


@dataclass(frozen=True)
class Pooled:
    """Convolutions that end in a vector, by one layer that reads all sites of the last map."""

    blocks: Backbone = field(default_factory=lambda: Backbone((32, 64), 1, False, groups=8))
    """Of encoder and decoder."""
    units: int = 256
    """Of the layers between map and vector."""

    def autoencoder(
        self, bottleneck: BottleneckSpec, size: int, channels: int = 3, maps: int = 1
    ) -> "VectorAutoencoder":
        """One with fresh weights, as `Dense.autoencoder`.

        Raises:
            ValueError: `size` is no multiple of the blocks' factor.
        """
        return VectorAutoencoder(self, _shape(bottleneck, size, channels, maps))

    def encoder(self, shape: "Shape") -> nn.Module:
        """Images to a vector of one site."""
        vae, last = diffusers.models.autoencoders.vae, self._map(shape)
        blocks: Any = vae.Encoder(
            shape.image[0], last[0], double_z=False, **self.blocks.of_encoder()
        )
        return nn.Sequential(
            blocks, nn.Flatten(), nn.Unflatten(1, (prod(last), 1, 1)),
            nn.Conv2d(prod(last), self.units, 1), nn.SiLU(),
        )  # fmt: skip

    def decoder(self, shape: "Shape") -> "VectorDecoder":
        """Back."""
        vae, first = diffusers.models.autoencoders.vae, self._map(shape)
        blocks: Any = vae.Decoder(first[0], shape.maps[0], **self.blocks.of_decoder())
        layers = nn.Sequential(
            nn.Conv2d(shape.z, self.units, 1), nn.SiLU(), nn.Conv2d(self.units, prod(first), 1),
            nn.SiLU(), nn.Flatten(), nn.Unflatten(1, first),
        )  # fmt: skip
        return VectorDecoder(layers, blocks)

    def features(self, shape: "Shape") -> int:
        """Channels that the encoder emits."""
        return self.units

    def _map(self, shape: "Shape") -> tuple[int, int, int]:
        factor, side = 2 ** (len(self.blocks.widths) - 1), shape.image[1]
        if side % factor:
            raise ValueError(
                f"images of {side} pixels cannot be encoded by blocks of a factor of {factor}: "
                "choose fewer backbone.blocks.widths, or another size"
            )
        return self.blocks.widths[-1], side // factor, side // factor


@dataclass(frozen=True)
class Shape:
    """What an autoencoder takes and gives."""

    image: tuple[int, int, int]
    """Channels, height, width."""
    maps: tuple[int, int, int]
    """The same of what the decoder emits."""
    h: int
    """Numbers that the bottleneck reads."""
    z: int
    """Numbers that the decoder reads."""


class Emit(nn.Module):
    """The last of plain layers: a convolution of one site, whose channels are all pixels."""

    def __init__(self, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv_out, self.shape = nn.Conv2d(width, prod(shape), 1), shape

    def forward(self, h: Float[Tensor, "b width 1 1"]) -> Float[Tensor, "b maps H W"]:
        """Emit them."""
        return self.conv_out(h).flatten(1).unflatten(1, self.shape)


class VectorDecoder(nn.Module):
    """Layers from a vector on, and what they end in, which is known by its `conv_out`."""

    def __init__(self, layers: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.layers, self.last = layers, last

    @property
    def conv_out(self) -> nn.Conv2d:
        """Whose output the images are."""
        return self.last.conv_out  # type: ignore[return-value]

    def forward(self, z: Float[Tensor, "b z 1 1"]) -> Float[Tensor, "b maps H W"]:
        """Decode."""
        return self.last(self.layers(z))


class VectorAutoencoder(nn.Module):
    """Encoder and decoder around a vector, under the names that a stock autoencoder has, and with
    its `config`, which is all that is needed to make it again.
    """

    def __init__(self, backbone: Dense | Pooled, shape: Shape, scaling_factor: float = 1.0) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "_class_name": type(self).__name__, "backbone": describe(backbone),
            "shape": asdict(shape), "scaling_factor": scaling_factor,
            "in_channels": shape.image[0], "out_channels": shape.maps[0],
            "sample_size": shape.image[1], "latent_channels": shape.z,
        }  # fmt: skip
        self.encoder, self.decoder = backbone.encoder(shape), backbone.decoder(shape)
        self.quant_conv = nn.Conv2d(backbone.features(shape), shape.h, 1)
        self.post_quant_conv = nn.Conv2d(shape.z, shape.z, 1)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VectorAutoencoder":
        """Make one again, with fresh weights.

        Raises:
            ValueError, KeyError, TypeError: it is no such config.
        """
        sides = {name: tuple(config["shape"][name]) for name in ("image", "maps")}
        shape = Shape(**{**config["shape"], **sides})
        return cls(restore(VectorBackbone, config["backbone"]), shape, config["scaling_factor"])

    def register_to_config(self, **settings: Any) -> None:
        """Change what its config says."""
        self.config |= settings


VectorBackbone = Dense | Pooled


def again(config: dict[str, Any]) -> Any:
    """An autoencoder with fresh weights, as the config says of one that no stock class exports.

    Raises:
        ValueError, KeyError, TypeError: it is no such config.
    """
    match config.get("_class_name"):
        case "VectorAutoencoder":
            return VectorAutoencoder.from_config(config)
        case "AutoencoderKL":
            return diffusers.AutoencoderKL.from_config(config)
    found: Any = diffusers.VQModel.from_config(config)  # Versions before named no class.
    found.quantize = None
    return found


def _shape(bottleneck: BottleneckSpec, size: int, channels: int, maps: int) -> Shape:
    of_image, emitted = (channels, size, size), (channels * maps, size, size)
    return Shape(of_image, emitted, bottleneck.inputs, bottleneck.channels)
