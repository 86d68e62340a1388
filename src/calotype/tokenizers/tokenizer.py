"""An image tokenizer: a stock autoencoder with a bottleneck of ours in its waist."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Num
from torch import Tensor, nn

from calotype.tokenizers.bottlenecks import Bottleneck, Gaussian, Latent
from calotype.training.noise import Generators


class ImageTokenizer(nn.Module):
    """Images in [-1, 1] to latents and back.

    The weights are those of a stock diffusers autoencoder, which is all that is ever saved; the
    bottleneck stands where the stock class has its own, and adds what training needs.
    """

    def __init__(self, autoencoder: AutoencoderKL, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.autoencoder, self.bottleneck = autoencoder, bottleneck

    @classmethod
    def load(cls, path: str | Path, kl_weight: float = 1e-6) -> "ImageTokenizer":
        """Take a stock AutoencoderKL from a folder or the Hub; only safetensors are read.

        Raises:
            ValueError: there is none at `path`.
        """
        autoencoder = load_autoencoder(path)
        channels = autoencoder.config["latent_channels"]
        return cls(autoencoder, Gaussian(channels, kl_weight).build())

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b in h w"]:
        """What the bottleneck reads."""
        h = self.autoencoder.encoder(images)
        return h if self.autoencoder.quant_conv is None else self.autoencoder.quant_conv(h)

    def encode(
        self, images: Float[Tensor, "b 3 H W"], generator: Generators | None = None
    ) -> Latent:
        """Encode images, with gradients."""
        return self.bottleneck(self.features(images), generator)

    def pack(self, images: Float[Tensor, "b 3 H W"]) -> Num[Tensor, "b ..."]:
        """Encode images to what is kept on disk."""
        return self.bottleneck.pack(self.features(images))

    def mean(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Encode to the posterior's mean: nothing is drawn."""
        return self.pack(images)[:, : self.bottleneck.z_channels].float()

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Decode; training keeps the result near [-1, 1] and nothing clips it."""
        post = self.autoencoder.post_quant_conv
        return self.autoencoder.decoder(z if post is None else post(z))

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Decode the posterior's mean: what the tokenizer keeps of images."""
        return self.decode(self.mean(images))

    @property
    def last_layer(self) -> nn.Conv2d:
        """The convolution whose output is the image."""
        return self.autoencoder.decoder.conv_out


def load_autoencoder(path: str | Path) -> AutoencoderKL:
    """A stock AutoencoderKL from its folder, from a pipeline's folder (`vae`), or from the Hub.

    Raises:
        ValueError: there is none, or its weights are not safetensors.
    """
    inside = "vae" if (Path(path) / "vae").is_dir() else None
    try:
        found = AutoencoderKL.from_pretrained(
            path, subfolder=inside, use_safetensors=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"no AutoencoderKL in {path}: expected a folder with config.json and "
            f"diffusion_pytorch_model.safetensors, or a name on the Hub ({error})"
        ) from error
    assert isinstance(found, AutoencoderKL)
    return found.eval()
