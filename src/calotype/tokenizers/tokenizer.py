"""An image tokenizer: a stock autoencoder with a bottleneck of ours in its waist."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Num
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks import (
    Autoencoder,
    Bottleneck,
    BottleneckSpec,
    Discrete,
    Gaussian,
    Latent,
    Table,
)
from calotype.tokenizers.bottlenecks.discrete import EMBEDDING
from calotype.tokenizers.stock import factor, load_autoencoder
from calotype.training.network import located
from calotype.training.noise import Generators
from calotype.training.portable import make_portable
from calotype.training.run import describe, restore

KEPT_IN = ("tokenizer/model", "model")
"""Where in the folder of a demo, of a quickstart, or of a run a tokenizer is."""
OWN_CONFIG, OWN_WEIGHTS = "calotype_tokenizer.json", "calotype_tokenizer.safetensors"
"""Files of a tokenizer for which there is no stock class; those look for other names."""


class ImageTokenizer(nn.Module):
    """Images in [-1, 1] to latents and back.

    Encoder, decoder and the 1x1 convolutions between are those of a stock diffusers autoencoder;
    the bottleneck stands where the stock class has its own, and adds what training needs.
    """

    def __init__(self, autoencoder: Autoencoder, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.autoencoder, self.bottleneck = autoencoder, bottleneck

    @classmethod
    def load(cls, path: str | Path) -> "ImageTokenizer":
        """Take a stock AutoencoderKL or VQModel from a folder or the Hub, or from a folder what
        `save` wrote; the folder of a run or of a whole way will do. Only safetensors are read.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: there is none at `path`.
        """
        path = located(path, *KEPT_IN)
        if Path(path, OWN_CONFIG).exists():
            return cls._load_own(Path(path))
        return cls.around(load_autoencoder(path))

    @classmethod
    def around(cls, autoencoder: Autoencoder) -> "ImageTokenizer":
        """A stock autoencoder as it stands."""
        if isinstance(autoencoder, diffusers.VQModel):
            return cls(autoencoder, Table(autoencoder.quantize.embedding.weight))
        return cls(autoencoder, Gaussian(autoencoder.config["latent_channels"]).build())

    @classmethod
    def _load_own(cls, folder: Path) -> "ImageTokenizer":
        try:
            found = json.loads((folder / OWN_CONFIG).read_text())
            spec = restore(BottleneckSpec, found["bottleneck"])
            autoencoder: Any = diffusers.VQModel.from_config(found["autoencoder"])
            autoencoder.quantize = None
            tokenizer = cls(autoencoder, spec.build())
            tokenizer.load_state_dict(load_file(folder / OWN_WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"no tokenizer of calotype's in {folder}: {error}") from error
        return tokenizer.eval()

    def save(self, folder: Path) -> None:
        """Write a stock AutoencoderKL or VQModel, or, where neither can stand for the bottleneck,
        a folder that `load` reads.
        """
        if (stock := self.export()) is not None:
            stock.save_pretrained(folder, safe_serialization=True)
            make_portable(folder)
            return
        assert isinstance(self.bottleneck, Discrete)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"autoencoder": dict(self.autoencoder.config),
                  "bottleneck": describe(self.bottleneck.spec)}  # fmt: skip
        (folder / OWN_CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / OWN_WEIGHTS)
        make_portable(folder)

    def export(self) -> Autoencoder | None:
        """A stock autoencoder that does the same; None: there is no class for it.

        Of a decoder that emits more maps than a picture's three, the picture's are kept.
        """
        model, bottleneck = self.autoencoder, self.bottleneck
        added: dict[str, Tensor] = {}
        if isinstance(bottleneck, Discrete):
            if not bottleneck.exported:
                return None
            added[EMBEDDING] = bottleneck.table()
        if self.maps > 3:
            last = self.last_layer
            assert last.bias is not None
            added |= {
                "decoder.conv_out.weight": last.weight[:3],
                "decoder.conv_out.bias": last.bias[:3],
            }
        if not added:
            return model
        stock: Any = type(model).from_config({**model.config, "out_channels": 3})
        stock.load_state_dict({**model.state_dict(), **added})
        return stock.to(self.last_layer.weight.device).eval()

    def check(self, size: int) -> None:
        """Refuse images that do not come back with the size they went in.

        Raises:
            ValueError: `size` pixels a side is no multiple of the factor.
        """
        if size % self.factor:
            raise ValueError(
                f"images of {size} pixels cannot be encoded by a factor of {self.factor}: choose "
                f"a size that is a multiple of {self.factor}, or a tokenizer of fewer widths"
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
        return self.decode_maps(z)[:, :3]

    def decode_maps(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b maps H W"]:
        """All that the decoder emits: the image, and what a likelihood may want beside it."""
        post = self.autoencoder.post_quant_conv
        h = z if post is None else post(z)
        if self.autoencoder.config.get("norm_type") == "spatial":
            return self.autoencoder.decoder(h, z)
        return self.autoencoder.decoder(h)

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Decode the likeliest latent, such as a posterior's mean: what is kept of images."""
        return self.decode(self.bottleneck.mode(self.features(images)))

    def enable_gradient_checkpointing(self) -> None:
        """Compute activations twice to hold fewer of them (Chen et al. 2016): of a residual block
        what it begins with. diffusers does so with whole levels, of which the largest then has all
        of its own at once, so that little is saved.
        """
        from diffusers.models.resnet import ResnetBlock2D

        for network in self.networks:
            for module in network.modules():
                if isinstance(module, ResnetBlock2D):
                    # Nothing in them is drawn, so that no state of a generator needs to be kept.
                    again = partial(checkpoint, module.forward, use_reentrant=False,
                                    preserve_rng_state=False)  # fmt: skip
                    module.forward = again  # type: ignore[method-assign]

    @property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Encoder and decoder, which do nearly all of the computing."""
        return self.autoencoder.encoder, self.autoencoder.decoder

    @property
    def last_layer(self) -> nn.Conv2d:
        """The convolution whose output is the image."""
        return self.autoencoder.decoder.conv_out

    @property
    def factor(self) -> int:
        """Pixels a side of what becomes one site of the latent."""
        return factor(self.autoencoder)

    @property
    def maps(self) -> int:
        """Channels that the decoder emits."""
        return self.last_layer.out_channels
