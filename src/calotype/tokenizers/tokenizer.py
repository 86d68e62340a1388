"""An image tokenizer: a stock autoencoder with a bottleneck of ours in its waist."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks import (
    Autoencoder,
    Bottleneck,
    BottleneckSpec,
    Certain,
    Discrete,
    Gaussian,
    Latent,
    Table,
)
from calotype.tokenizers.preprocessing import Center, Fit, Picture, preprocessed
from calotype.tokenizers.readme import readme
from calotype.tokenizers.stock import (
    CLASSES,
    OTHERS,
    decoded,
    factor,
    features,
    last_layer,
    load_autoencoder,
    mode_of,
)
from calotype.tokenizers.tiling import Tiling, tiled
from calotype.tokenizers.vector import VectorAutoencoder, again
from calotype.training.description import describe, restore
from calotype.training.images import Mode, Pixels, scaled
from calotype.training.network import located, place
from calotype.training.noise import Generators
from calotype.training.portable import make_portable
from calotype.training.upload import Destination, push_saved

KEPT_IN = ("tokenizer/model", "model")
"""Where in the folder of a demo, of a quickstart, or of a run a tokenizer is."""
EVERY = (*CLASSES, *OTHERS)
"""Of diffusers, all autoencoders that there are tokenizers around."""
OWN_CONFIG, OWN_WEIGHTS = "calotype_tokenizer.json", "calotype_tokenizer.safetensors"
"""Files of a tokenizer for which there is no stock class; those look for other names."""


class ImageTokenizer(nn.Module):
    """Images [b c H W] in [-1, 1] to latents and back; an ordinary module.

    Images have one channel, which is grey, three, or four, colours over white and alpha; what is of
    8 bits is scaled.

    Encoder, decoder and the 1x1 convolutions between are those of a stock diffusers autoencoder;
    the bottleneck stands where the stock class has its own, and adds what training needs.
    """

    def __init__(self, autoencoder: Any, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.autoencoder: Autoencoder = autoencoder
        self.bottleneck = bottleneck
        self.register_load_state_dict_post_hook(_follow)

    @classmethod
    def load(
        cls, path: str | Path, variant: str | None = None, classes: Sequence[str] = EVERY
    ) -> "ImageTokenizer":
        """Take a stock autoencoder, or what `save` wrote; only safetensors are read.

        Args:
            path: Its folder, that of a pipeline, of a run or of a whole way, a `.safetensors` file,
                or a name on the Hub: `user/name`, `user/name/folder`, `user/name@revision/folder`.
            variant: Of a stock folder's weights, such as fp16; they become float32.
            classes: Of diffusers, those that will do.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: there is none at `path`.
        """
        path = located(path, *KEPT_IN)
        if (own := _own_folder(path)) is not None:
            return cls._load_own(own)
        return cls.around(load_autoencoder(path, classes, variant))

    @classmethod
    def around(cls, autoencoder: Any) -> "ImageTokenizer":
        """A stock autoencoder as it stands."""
        if isinstance(autoencoder, diffusers.VQModel):
            return cls(autoencoder, Table(autoencoder.quantize.embedding.weight))
        channels = autoencoder.config["latent_channels"]
        posterior = diffusers.AutoencoderKL | diffusers.AsymmetricAutoencoderKL
        kind = (
            Gaussian(channels).build() if isinstance(autoencoder, posterior) else Certain(channels)
        )
        return cls(autoencoder, kind)

    @classmethod
    def _load_own(cls, folder: Path) -> "ImageTokenizer":
        try:
            found = json.loads((folder / OWN_CONFIG).read_text())
            spec = restore(BottleneckSpec, found["bottleneck"])
            tokenizer = cls(again(found["autoencoder"]), spec.build())
            tokenizer.load_state_dict(load_file(folder / OWN_WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"no tokenizer of calotype's in {folder}: {error}") from error
        return tokenizer.eval()

    def save(self, folder: Path) -> None:
        """Write a stock AutoencoderKL or VQModel, or, where neither can stand for the bottleneck,
        a folder that `load` reads; beside, a README.md that says how anybody loads it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        stock = self.export()
        (folder / "README.md").write_text(readme(stock, self.factor))
        if stock is not None:
            stock.save_pretrained(folder, safe_serialization=True)
            make_portable(folder)
            return
        kind = {"_class_name": type(self.autoencoder).__name__}
        config = {"autoencoder": {**self.autoencoder.config, **kind},
                  "bottleneck": describe(self.bottleneck.spec)}  # fmt: skip
        (folder / OWN_CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / OWN_WEIGHTS)
        make_portable(folder)

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, commit_message: str | None = None,
        revision: str | None = None, token: str | None = None,
    ) -> str:  # fmt: skip
        """Save it in a repository on the Hub, as models of diffusers and transformers do.
        `calotype push` also writes a card of what was measured.

        Args:
            repo_id: `user/name`, or the name alone of one that is the token's owner's.
            private: Whether others may not see it; None: as its owner has it by default.
            commit_message: What the commit is called.
            revision: Branch, which is made if it is not there; None: the main one.
            token: With which; None: that of the environment or of `hf auth login`.

        Returns:
            Its address.

        Raises:
            OSError: the Hub is not there, refused, or was cut off; called again, it sends only
                what is missing.
            ValueError: that is no name, or the repository is open and was to be private.
        """
        return push_saved(self.save, Destination(repo_id, revision, private, commit_message), token)

    def export(self) -> "diffusers.ModelMixin | None":
        """A stock autoencoder that does the same; None: there is no class for it.

        Of a decoder that emits more maps than a picture's channels, the picture's are kept.
        """
        model = self.autoencoder
        if not self.is_stock:
            return None
        added = self.bottleneck.stock_weights(model)
        if self.maps > (kept := self.channels):
            last = self.last_layer
            assert last.bias is not None
            added |= {
                "decoder.conv_out.weight": last.weight[:kept],
                "decoder.conv_out.bias": last.bias[:kept],
            }
        if not added:
            return model
        stock: Any = type(model).from_config({**model.config, "out_channels": kept})
        stock.load_state_dict({**model.state_dict(), **added})
        return stock.to(self.last_layer.weight.device).eval()

    @property
    def is_stock(self) -> bool:
        """Whether there is a stock class that does the same."""
        return self.bottleneck.exported and not isinstance(self.autoencoder, VectorAutoencoder)

    def check(self, size: int) -> None:
        """Refuse images that do not come back with the size they went in.

        Raises:
            ValueError: `size` pixels a side is no multiple of the factor.
        """
        if isinstance(self.autoencoder, VectorAutoencoder) and size != self.factor:
            raise ValueError(
                f"images of {size} pixels cannot become a vector that was made for {self.factor}: "
                "choose that size, or a backbone of maps"
            )
        if size % self.factor:
            raise ValueError(
                f"images of {size} pixels cannot be encoded by a factor of {self.factor}: choose "
                f"a size that is a multiple of {self.factor}, or a tokenizer of fewer widths"
            )

    def check_mode(self, mode: Mode, called: str) -> None:
        """Refuse pictures of other channels than it takes.

        Args:
            mode: Of the pictures.
            called: The tokenizer, as an error names it.

        Raises:
            ValueError: it takes others.
        """
        if (own := self.mode) != mode:
            raise ValueError(
                f"transform.mode is {mode}, and {called} takes {own}: choose transform:transform "
                f"and --transform.mode {own}, or another tokenizer"
            )

    def preprocess(
        self, pictures: Picture | Sequence[Picture], fit: Fit | None = None
    ) -> Float[Tensor, "b c H W"]:
        """One batch of images in [-1, 1], in the tokenizer's mode and on its device.

        Args:
            pictures: A path, PIL image, array or tensor, or several of any kinds and sizes, as
                `calotype.tokenizers.preprocessing` says.
            fit: How they become images of one size; None: their central square, of the size that
                the tokenizer was trained with, or 256 pixels where it does not say.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: one is no picture, or they cannot be of one size.
        """
        fit = fit or Center(self.sample_size)
        return preprocessed(pictures, fit, self.factor, self.mode).to(self.weight.device)

    def features(self, images: Pixels, tiling: Tiling | None = None) -> Float[Tensor, "b in h w"]:
        """What the bottleneck reads."""
        if tiling is None:
            return features(self.autoencoder, scaled(images).to(self.weight))
        for side in images.shape[-2:]:
            self.check(side)
        encoder = self.autoencoder.encoder
        return tiled(self.features, encoder, images, self.factor, tiling)

    def encode(
        self, images: Pixels, generator: Generators | None = None,
        tiling: Tiling | None = None, **told: Tensor,
    ) -> Latent:  # fmt: skip
        """Encode images in [-1, 1], with gradients: z is drawn where there is a posterior. With
        `tiling`, here and below, in parts, without gradients. `told`: what the bottleneck's own
        `told` finds in a batch.
        """
        return self.bottleneck(self.features(images, tiling), generator, **told)

    def latents(self, images: Pixels, tiling: Tiling | None = None) -> Float[Tensor, "b z h w"]:
        """The likeliest latents of images in [-1, 1], such as a posterior's mean, as `decode` reads
        them; nothing is drawn.
        """
        return self.bottleneck.mode(self.features(images, tiling))

    def encode_ids(self, images: Pixels, tiling: Tiling | None = None) -> Int[Tensor, "b ..."]:
        """The codes of images in [-1, 1]: [b h w], of several codebooks [b codebooks h w].

        Raises:
            ValueError: the tokenizer has no codes.
        """
        return self._codes.pack(self.features(images, tiling))

    def decode_ids(
        self, ids: Int[Tensor, "b ..."], tiling: Tiling | None = None
    ) -> Float[Tensor, "b c H W"]:
        """Images of codes, near [-1, 1].

        Raises:
            ValueError: the tokenizer has no codes.
        """
        return self.decode(self._codes.unpack(ids.to(self.weight.device)), tiling)

    @property
    def _codes(self) -> Discrete:
        if not isinstance(self.bottleneck, Discrete):
            raise ValueError("this tokenizer is continuous and has no codes: use encode and decode")
        return self.bottleneck

    def pack(self, images: Pixels) -> Num[Tensor, "b ..."]:
        """Encode images to what is kept on disk."""
        return self.bottleneck.pack(self.features(images))

    def decode(
        self, z: Float[Tensor, "b z h w"], tiling: Tiling | None = None
    ) -> Float[Tensor, "b c H W"]:
        """Decode latents as `encode` gives them, with gradients; training keeps the result near
        [-1, 1] and nothing clips it.
        """
        if tiling is not None:
            return tiled(self.decode, self.autoencoder.decoder, z, 1, tiling)
        return self.decode_maps(z)[:, : self.channels]

    def decode_maps(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b maps H W"]:
        """All that the decoder emits: the image, and what a likelihood may want beside it."""
        return decoded(self.autoencoder, z.to(self.weight))

    def forward(self, images: Pixels) -> Float[Tensor, "b c H W"]:
        """What is kept of images in [-1, 1]: the likeliest latents, decoded, with gradients."""
        return self.decode(self.latents(images))

    @torch.no_grad()
    def reconstruct(self, images: Pixels, tiling: Tiling | None = None) -> Float[Tensor, "b c H W"]:
        """As `forward`, without gradients."""
        return self.decode(self.latents(images, tiling), tiling)

    def normalised(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b z h w"]:
        """Latents as stock pipelines have their generators see them, about mean 0 and standard
        deviation 1; of a tokenizer that calotype trained the same as stored.
        """
        shift, scale = self._scaling(z)
        return (z - shift) * scale

    def stored(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b z h w"]:
        """Latents as `encode` gives and `decode` reads them, of those that are `normalised`."""
        shift, scale = self._scaling(z)
        return z / scale + shift

    def _scaling(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What stock pipelines take from latents, and multiply them by."""
        told = self.autoencoder.config.get
        channels = told("latents_mean") or 0.0, told("latents_std") or 1.0
        mean, std = (torch.tensor(each, dtype=torch.float32).view(-1, 1, 1) for each in channels)
        mean = mean + (told("shift_factor") or 0.0)
        return mean.to(z), (told("scaling_factor", 1.0) / std).to(z)

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
    def weight(self) -> nn.Parameter:
        """One of its weights, which are all on one device and of one dtype."""
        return next(self.autoencoder.parameters())

    @property
    def last_layer(self) -> nn.Conv2d:
        """The convolution whose output is the image."""
        return last_layer(self.autoencoder)

    @property
    def factor(self) -> int:
        """Pixels a side of what becomes one site of the latent."""
        return factor(self.autoencoder)

    @property
    def sample_size(self) -> int:
        """Pixels a side of what it was trained with, or 256 where it does not say."""
        return self.autoencoder.config.get("sample_size") or 256

    @property
    def mode(self) -> Mode:
        """What pictures it takes: L, RGB, or RGBA, colours over white and alpha.

        Raises:
            ValueError: they are none of these.
        """
        return mode_of(self.autoencoder)

    @property
    def channels(self) -> int:
        """Of its images: 1, 3 or 4."""
        return self.autoencoder.config.get("in_channels", 3)

    @property
    def maps(self) -> int:
        """Channels that the decoder emits."""
        return self.autoencoder.config.get("out_channels") or self.last_layer.out_channels


def _own_folder(path: str) -> Path | None:
    """Where what `save` wrote lies, if it is that and no stock autoencoder."""
    where = place(path)
    if (config := (where / OWN_CONFIG).fetched()) is None:
        return None
    (where / OWN_WEIGHTS).fetched()
    return config.parent


def _follow(tokenizer: ImageTokenizer, keys: Any) -> None:
    """Codes of a stock VQModel are where its weights are too."""
    if isinstance(tokenizer.bottleneck, Table):
        codes: Any = tokenizer.autoencoder.quantize
        tokenizer.bottleneck.codebook.copy_(codes.embedding.weight.detach())
