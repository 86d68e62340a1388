"""Stock autoencoders that are measured, though calotype trains none like them."""

from pathlib import Path
from typing import Any

from jaxtyping import Float, Num
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers import ImageTokenizer, load_autoencoder
from calotype.tokenizers.bottlenecks import Bottleneck, Gaussian, Latent
from calotype.tokenizers.stock import CLASSES
from calotype.tokenizers.tokenizer import KEPT_IN, OWN_CONFIG
from calotype.training.network import located
from calotype.training.noise import Generators

OTHERS = ("AsymmetricAutoencoderKL", "AutoencoderDC", "AutoencoderTiny")
"""Of diffusers."""


def load_tokenizer(path: str | Path) -> ImageTokenizer:
    """A tokenizer of calotype's, or a stock autoencoder of `CLASSES` or `OTHERS`; only safetensors
    are read.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is none at `path`.
    """
    path = located(path, *KEPT_IN)
    if Path(path, OWN_CONFIG).exists():
        return ImageTokenizer.load(path)
    found = load_autoencoder(path, (*CLASSES, *OTHERS))
    trained = type(found).__name__ in CLASSES
    return ImageTokenizer.around(found) if trained else OtherTokenizer(found)


class OtherTokenizer(ImageTokenizer):
    """A stock autoencoder by its own `encode` and `decode`."""

    def __init__(self, autoencoder: Any) -> None:
        nn.Module.__init__(self)  # of a class that calotype trains it is not
        kl = isinstance(autoencoder, diffusers.AsymmetricAutoencoderKL)
        channels = autoencoder.config["latent_channels"]
        self.autoencoder = autoencoder
        self.bottleneck = Gaussian(channels).build() if kl else Certain(channels)

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b in h w"]:
        """The posterior's parameters, or the latent where it is certain."""
        found: Any = self.autoencoder.encode(images)
        if "latent_dist" in found:
            return found.latent_dist.parameters
        return found.latents if "latents" in found else found.latent

    def decode_maps(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """The image."""
        found: Any = self.autoencoder.decode(z)
        return found.sample

    @property
    def last_layer(self) -> nn.Conv2d:
        """The convolution whose output is the image."""
        return [m for m in self.autoencoder.decoder.modules() if isinstance(m, nn.Conv2d)][-1]

    @property
    def factor(self) -> int:
        """Pixels a side of what becomes one site of the latent."""
        config = self.autoencoder.config
        widths = config.get("encoder_block_out_channels") or config["down_block_out_channels"]
        return 2 ** (len(widths) - 1)


class Certain(Bottleneck):
    """Nothing is squeezed: the encoder's output is the latent."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.z_channels = channels

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """The same."""
        return Latent(h)

    def mode(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same."""
        return h

    def pack(self, h: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        """The same."""
        return h

    def unpack(
        self, packed: Num[Tensor, "b ..."], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The same."""
        return packed
