"""Pictures to small files and back, by a tokenizer and what says how likely its latents are."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn import functional

from calotype.autoregressive import Layout
from calotype.pipelines import TokenPipeline, is_pipeline, load
from calotype.pipelines.assemble import KEPT_IN as PIPELINE
from calotype.pipelines.token_parts import IMAGES
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.tokenizer import KEPT_IN as TOKENIZER
from calotype.training.images import Pixels, sent_images
from calotype.training.network import Place, place
from calotype.uses.compression.container import (
    Compressed,
    DamagedError,
    OtherModelError,
    check_size,
    checksum,
)
from calotype.uses.compression.exact_transformer import ExactTransformer
from calotype.uses.compression.kept import coded, has_entropy_model, load_entropy_model
from calotype.uses.compression.latents import LatentModel, is_step, method_of
from calotype.uses.compression.models import CodeModel, Frequencies, Transformer

STEP = 0.5
"""Of continuous latents, whose deviation is 1."""


@dataclass(frozen=True)
class Size:
    """Of a picture in pixels, and of its latents in sites."""

    width: int
    height: int
    factor: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return -(-self.height // self.factor), -(-self.width // self.factor)


class Codec:
    """A tokenizer with its entropy models.

    Args:
        tokenizer: What turns pictures into latents and back.
        models: What is taken for latents, the first that knows their shape: a transformer, and
            frequencies for all that it does not know; or one hyperprior.

    Raises:
        ImportError: the range coder, constriction, is not installed.
    """

    def __init__(
        self, tokenizer: ImageTokenizer, models: Sequence[CodeModel] | LatentModel
    ) -> None:
        if find_spec("constriction") is None:
            raise ImportError('the range coder is not installed: run pip install "calotype[uses]"')
        self.tokenizer, self.models = tokenizer.eval(), models
        self._latent_space = fingerprint(tokenizer)

    @classmethod
    def load(cls, path: str | Path) -> "Codec":
        """Of the folder of a transformer's pipeline, of a tokenizer with an entropy model beside
        it, or of the run of either.

        Raises:
            FileNotFoundError: there is no such folder, or no entropy model in it.
            ValueError: it holds something else.
        """
        if is_pipeline(path):
            pipeline = load(path)
            if not isinstance(pipeline, TokenPipeline):
                raise ValueError(
                    f"{path} is a diffusion pipeline: give the folder of its tokenizer"
                )
            return cls.of(pipeline, place(path, *PIPELINE) / IMAGES)
        tokenizer = ImageTokenizer.load(path)
        model = load_entropy_model(place(path, *TOKENIZER), tokenizer)
        return cls(tokenizer, model if isinstance(model, LatentModel) else [model])

    @classmethod
    def of(cls, pipeline: TokenPipeline, beside: Place | None = None) -> "Codec":
        """Of a transformer, and of frequencies if they lie beside its tokenizer."""
        shaped = pipeline.layout.of(*pipeline.layout.shapes[0])
        models: list[CodeModel] = [Transformer(ExactTransformer(pipeline.transformer, shaped))]
        if beside is not None and has_entropy_model(beside):
            found = load_entropy_model(beside, pipeline.tokenizer)
            models += [found] if isinstance(found, Frequencies) else []
        return cls(pipeline.tokenizer, models)

    def name(self, method: int) -> str:
        """Fingerprint of the latents with the entropy model of a method, as files say it.

        Raises:
            KeyError: it has none.
        """
        model = self._model(method)
        told = f"{self._latent_space} {model.fingerprint}".encode()
        return hashlib.sha256(told).hexdigest()[:12]

    def compress(self, images: Pixels, step: float = STEP) -> list[bytes]:
        """Files of images of one size, in [-1, 1] or of 8 bits.

        Args:
            images: Of any size; what is no multiple of the tokenizer's factor is padded.
            step: Of continuous latents, whose deviation is about 1; codes have none.

        Raises:
            ValueError: nothing is fitted to latents of their shape, or there is no such step.
        """
        height, width = images.shape[-2:]
        check_size(width, height)
        size = Size(width, height, self.tokenizer.factor)
        return self.pack(self.latents(images), size, step)

    @torch.no_grad()
    def latents(self, images: Pixels) -> Num[Tensor, "b ..."]:
        """What is coded of images: ids, or the likeliest latents, whose deviation is about 1, on
        the CPU.
        """
        height, width = images.shape[-2:]
        factor = self.tokenizer.factor
        rows, columns = Size(width, height, factor).grid
        pad = (0, columns * factor - width, 0, rows * factor - height)
        sent = functional.pad(sent_images(images, self.tokenizer.weight.device), pad, "replicate")
        return coded(self.tokenizer, sent)

    def pack(self, latents: Num[Tensor, "b ..."], size: Size, step: float = STEP) -> list[bytes]:
        """Files of latents as `latents` gives them; of continuous ones in steps."""
        if isinstance(self.models, LatentModel):
            method = method_of(step)
            quantised = self.models.quantise(latents, method)
            data = self.models.encode(quantised, method)
            sums = [checksum(quantised.contents(row)) for row in range(len(data))]
        else:
            model = self._knowing(size)
            method, codes = model.method, self._layout(size).flatten(latents)
            data = model.encode(codes, size.grid)
            sums = [checksum(_bytes(row)) for row in codes]
        name = self.name(method)
        return [bytes(Compressed(method, name, size.width, size.height, each, contents))
                for each, contents in zip(data, sums, strict=True)]  # fmt: skip

    def read(self, file: bytes) -> Compressed:
        """Take a file apart and see that this codec decodes it.

        Raises:
            DamagedError: it is none, or not what was written.
            OtherModelError: another model compressed it.
        """
        found = Compressed.read(file)
        try:
            own = self.name(found.method)
        except KeyError:
            own = "one of another kind"
        if own != found.name:
            raise OtherModelError(f"compressed by the model {found.name}, and this is {own}")
        model = self._model(found.method)
        if not isinstance(model, LatentModel) and not model.knows(self.size(found).grid):
            raise DamagedError(
                f"of {found.width}x{found.height} pixels, which its own model does not code"
            )
        return found

    def unpack(self, files: Sequence[Compressed]) -> Num[Tensor, "b ..."]:
        """The latents of files of one method and size, as the decoder reads them: ids, or values.

        Raises:
            DamagedError: what was decoded is not what was coded.
        """
        first, size = files[0], self.size(files[0])
        data = [each.data for each in files]
        if isinstance(self.models, LatentModel):
            found = self.models.decode(data, size.grid, first.method)
            contents, out = map(found.contents, range(len(files))), found.values
        else:
            codes = self._model(first.method).decode(data, size.grid)  # type: ignore[union-attr]
            contents, out = map(_bytes, codes), self._layout(size).unflatten(codes)
        for each, held in zip(files, contents, strict=True):
            if checksum(held) != each.contents:
                raise DamagedError("decoded to other symbols than were coded")
        return out

    @torch.no_grad()
    def pictures(self, latents: Num[Tensor, "b ..."], size: Size) -> Float[Tensor, "b c H W"]:
        """Images of latents, near [-1, 1], on the CPU. Their last bits depend on the machine."""
        tokenizer = self.tokenizer
        there = latents.to(tokenizer.weight.device)
        if isinstance(self.models, LatentModel):
            images = tokenizer.decode(tokenizer.stored(there))
        else:
            images = tokenizer.decode_ids(there)
        return images[..., : size.height, : size.width].float().cpu()

    def decompress(self, files: Sequence[bytes]) -> list[Float[Tensor, "c H W"]]:
        """Images near [-1, 1], of files of any sizes.

        Raises:
            DamagedError, OtherModelError: one cannot be decoded.
        """
        read = [self.read(file) for file in files]
        found: dict[int, Tensor] = {}
        for places in together(read):
            some = [read[i] for i in places]
            images = self.pictures(self.unpack(some), self.size(some[0]))
            found |= dict(zip(places, images, strict=True))
        return [found[i] for i in range(len(files))]

    def check(self, width: int, height: int) -> None:
        """Refuse pictures of so many pixels for whose latents nothing is fitted.

        Raises:
            ValueError: they are.
        """
        check_size(width, height)
        if not isinstance(self.models, LatentModel):
            self._knowing(Size(width, height, self.tokenizer.factor))

    def size(self, file: Compressed) -> Size:
        """Of a file's picture."""
        return Size(file.width, file.height, self.tokenizer.factor)

    def _layout(self, size: Size) -> Layout:
        bottleneck = self.tokenizer.bottleneck
        assert isinstance(bottleneck, Discrete)
        return Layout(0, bottleneck.codes, bottleneck.codebooks, *size.grid)

    def _model(self, method: int) -> CodeModel | LatentModel:
        if isinstance(self.models, LatentModel):
            if is_step(method):
                return self.models
            raise KeyError(method)
        return {model.method: model for model in self.models}[method]

    def _knowing(self, size: Size) -> CodeModel:
        assert not isinstance(self.models, LatentModel)
        for model in self.models:
            if model.knows(size.grid):
                return model
        shapes = ", ".join(f"{width * size.factor}x{height * size.factor}"
                           for model in self.models if isinstance(model, Transformer)
                           for height, width in model.exact.layout.shapes)  # fmt: skip
        raise ValueError(
            f"a picture of {size.width}x{size.height} pixels, and the transformer codes {shapes}: "
            "resize by --size, or fit frequencies to its tokenizer by calotype fit-entropy-model"
        )


def together(files: Sequence[Compressed], most: int = 64) -> list[list[int]]:
    """Places of files that can be decoded at once, `most` at a time."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for i, file in enumerate(files):
        groups.setdefault((file.method, file.width, file.height), []).append(i)
    return [group[first : first + most] for group in groups.values()
            for first in range(0, len(group), most)]  # fmt: skip


def _bytes(codes: Tensor) -> bytes:
    return codes.numpy().astype("<i4").tobytes()
