"""An image tokenizer: a stock autoencoder with a bottleneck of ours in its waist."""

import contextlib
from pathlib import Path
from typing import Any

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
    def load(cls, path: str | Path) -> "ImageTokenizer":
        """Take a stock AutoencoderKL from a folder or the Hub; only safetensors are read.

        Raises:
            ValueError: there is none at `path`.
        """
        autoencoder = load_autoencoder(path)
        return cls(autoencoder, Gaussian(autoencoder.config["latent_channels"]).build())

    def check(self, size: int) -> None:
        """Refuse images that do not come back with the size they went in.

        Raises:
            ValueError: `size` pixels a side is no multiple of the factor.
        """
        factor = 2 ** (len(self.autoencoder.config["block_out_channels"]) - 1)
        if size % factor:
            raise ValueError(
                f"images of {size} pixels cannot be encoded by a factor of {factor}: choose a size "
                f"that is a multiple of {factor}, or a tokenizer of fewer widths"
            )

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

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Decode; training keeps the result near [-1, 1] and nothing clips it."""
        post = self.autoencoder.post_quant_conv
        return self.autoencoder.decoder(z if post is None else post(z))

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Decode the likeliest latent, such as a posterior's mean: what is kept of images."""
        return self.decode(self.bottleneck.mode(self.features(images)))

    @property
    def last_layer(self) -> nn.Conv2d:
        """The convolution whose output is the image."""
        return self.autoencoder.decoder.conv_out


def load_autoencoder(path: str | Path) -> AutoencoderKL:
    """A stock AutoencoderKL from its folder, from a pipeline's, or from either on the Hub.

    Raises:
        ValueError: there is none, its weights are not safetensors, or they are another class's.
    """
    root = Path(path)
    inside = [name for name in ("vae", "vqvae") if (root / name).is_dir()]
    *others, last = inside or ([""] if root.exists() else ["vae", "vqvae", ""])
    for subfolder in others:
        with contextlib.suppress(OSError):
            return _load(path, subfolder)
    try:
        return _load(path, last)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"no AutoencoderKL in {path}: expected a folder with config.json and "
            f"diffusion_pytorch_model.safetensors, or a name on the Hub ({error})"
        ) from error


def _load(path: str | Path, subfolder: str) -> AutoencoderKL:
    loaded: Any = AutoencoderKL.from_pretrained(
        path, subfolder=subfolder, use_safetensors=True, low_cpu_mem_usage=False,
        output_loading_info=True,
    )  # fmt: skip
    found, report = loaded
    # diffusers loads any class's weights, and leaves at random what is missing among them.
    if wrong := [name for kind in ("missing_keys", "unexpected_keys") for name in report[kind]]:
        raise ValueError(f"its weights are not an AutoencoderKL's: {wrong[0]} is where it is not")
    return found.eval()
