"""What a tokenizer is trained by: the recipe."""

from dataclasses import dataclass, field

from calotype.data import Buckets, Drawn, Scenes, Source, Transform
from calotype.recipes.latent_terms import check_encoder_terms
from calotype.tokenizers import (
    Backbone,
    Gaussian,
    ImageTokenizer,
    fingerprint,
    go_on,
    inherit,
)
from calotype.tokenizers.bottlenecks import (
    BottleneckSpec,
    Discrete,
    Table,
)
from calotype.tokenizers.contraction import Jacobian
from calotype.tokenizers.contrast import InfoNCE
from calotype.tokenizers.corruptions import CorruptionSpec
from calotype.tokenizers.encoder_terms import EncoderTerm
from calotype.tokenizers.rebuildable import Rebuildable
from calotype.tokenizers.stock import CLASSES
from calotype.tokenizers.terms import L1, LPIPS, Adversary, Pixel
from calotype.tokenizers.vector import Dense, Pooled
from calotype.training import AdamW, Run
from calotype.training.images import CHANNELS, Mode
from calotype.training.weights import digest


@dataclass(frozen=True)
class NewTokenizer:
    """A tokenizer all of which is trained, whose latents are normalised when it is trained."""

    backbone: Backbone | Dense | Pooled = field(default_factory=Backbone)
    bottleneck: BottleneckSpec = field(default_factory=Gaussian)
    start: str | None = None
    """Folder or name on the Hub of a trained tokenizer of the same backbone, with whose encoder and
    decoder it begins, whatever the bottleneck of either; None: with fresh weights."""

    latents_may_move = True

    def build(self, size: int, mode: Mode = "RGB", maps: int = 1) -> ImageTokenizer:
        """Make it, for images of `size` pixels a side in a mode; its decoder emits `maps` for each
        of their channels.

        Raises:
            ValueError: there is no tokenizer to start from, or one of another backbone.
        """
        autoencoder = self.backbone.autoencoder(self.bottleneck, size, CHANNELS[mode], maps)
        tokenizer = ImageTokenizer(autoencoder, self.bottleneck.build())
        if self.start is not None:
            try:
                inherit(tokenizer, ImageTokenizer.load(self.start, classes=CLASSES))
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"model.start: {self.start}: {error}") from error
        return tokenizer

    def inputs(self, tokenizer: ImageTokenizer) -> dict[str, str]:
        """Fingerprint of the latent space it began with, if it did with one."""
        if self.start is None:
            return {}
        return {"start": fingerprint(ImageTokenizer.load(self.start, classes=CLASSES))}


@dataclass(frozen=True)
class PretrainedDecoder:
    """A stock AutoencoderKL or VQModel of which only the decoder is trained: latents stay what they
    are, and every generator that lives in them gets the better decoder.
    """

    path: str = "stabilityai/sd-vae-ft-mse"
    """Folder of one or of a pipeline, or a name on the Hub."""

    latents_may_move = False

    def build(self, size: int, mode: Mode = "RGB", maps: int = 1) -> ImageTokenizer:
        """Load it and freeze its encoder; its decoder emits images alone, whatever `maps` says.

        Raises:
            ValueError: there is none, or it takes other pictures, or its codes would move.
        """
        tokenizer = ImageTokenizer.load(self.path, classes=CLASSES)
        tokenizer.check_mode(mode, self.path)
        if isinstance(tokenizer.bottleneck, Discrete) and not isinstance(
            tokenizer.bottleneck, Table
        ):
            raise ValueError(
                f"{self.path} has no stock class, and its codes would move with its decoder: give "
                "an AutoencoderKL or a VQModel"
            )
        model = tokenizer.autoencoder.requires_grad_(False)
        for part in (model.decoder, model.post_quant_conv):
            if part is not None:
                part.requires_grad_(True)
        return tokenizer

    def inputs(self, tokenizer: ImageTokenizer) -> dict[str, str]:
        """Fingerprint of the latent space that is kept."""
        return {"latent space": fingerprint(tokenizer)}


@dataclass(frozen=True)
class Continued:
    """A trained tokenizer, all of which is trained on: at another size, against an adversary, by
    other terms or on other pictures. Its latents are normalised anew when it is trained.
    """

    path: str
    """Folder of one, of its run or of a pipeline, or a name on the Hub. One of calotype's goes on
    where it stood, as long as the folder that its run left is whole."""
    bottleneck: BottleneckSpec | None = None
    """What it is trained as. None: as it was; an AutoencoderKL of others by LDM's weight of the
    divergence, a VQModel of others with codes that a loss moves."""
    discriminator: bool = True
    """Go on with the discriminator of its run, if there was one; no: with a fresh one."""

    latents_may_move = True

    def build(self, size: int, mode: Mode = "RGB", maps: int = 1) -> ImageTokenizer:
        """Load it, for images of `size` pixels a side.

        Raises:
            ValueError: there is none that could be trained so, or it takes other pictures, or its
                decoder emits fewer maps.
        """
        try:
            tokenizer = go_on(self.path, self.bottleneck)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"model.path: {self.path}: {error}") from error
        tokenizer.check_mode(mode, self.path)
        if tokenizer.maps < (read := maps * tokenizer.channels):
            raise ValueError(
                f"pixel reads {read} maps, and {self.path} emits {tokenizer.maps}: choose "
                "pixel:l1, pixel:l2 or pixel:huber"
            )
        tokenizer.autoencoder.register_to_config(sample_size=size)
        return tokenizer

    def inputs(self, tokenizer: ImageTokenizer) -> dict[str, str]:
        """Fingerprint of all the weights it began with."""
        began = ImageTokenizer.load(self.path, classes=CLASSES)
        return {"start": digest(sorted(began.state_dict().items()))}


class OfImages:
    """What recipes have in common that make images of pictures."""

    data: Source
    transform: Transform | None

    @property
    def size(self) -> int:
        """Pixels a side of the images, of buckets those of the square."""
        return image_size(self.data, self.transform)

    @property
    def mode(self) -> Mode:
        """Channels of the images."""
        return image_mode(self.transform)

    @property
    def shortest(self) -> int:
        """Pixels of the shortest side that an image may have."""
        return shortest_side(self.data, self.transform)


@dataclass(frozen=True)
class TokenizerRecipe(OfImages):
    """Train an image tokenizer."""

    data: Source = field(default_factory=Scenes)
    transform: Transform | None = None
    """How pictures become images of one size, or of the few of some buckets; None: they are squares
    already."""
    corruption: CorruptionSpec | None = None
    """What is done to pictures before the encoder sees them; the decoder is to give back clean
    ones. None: nothing."""
    model: NewTokenizer | PretrainedDecoder | Continued = field(default_factory=NewTokenizer)
    pixel: Pixel = field(default_factory=L1)
    perceptual: LPIPS | None = field(default_factory=LPIPS)
    adversary: Adversary | None = field(default_factory=Adversary)
    rebuildable: Rebuildable | None = None
    """What reconstructions pay for being nothing that a trained autoencoder can rebuild. None:
    nothing."""
    contraction: Jacobian | None = None
    """What latents pay for changing where the image does. None: nothing."""
    contrast: InfoNCE | None = None
    """What latents pay for not telling two views of a picture from others. None: nothing."""
    optimizer: AdamW = field(default_factory=AdamW)
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    measure: int = 10_000
    """Training images on which the latents' mean and deviation are measured; at most four passes
    over the source."""
    validation: Source | None = None
    """Pictures that are not trained on: `validate` of them are rebuilt and measured every
    `run.evaluate_every` steps, and the use of codes is counted over all when training ends. None:
    nothing is measured, and codes are counted over training images, as many as `measure`."""
    validate: int = 256
    """Pictures of `validation` that are measured while training runs, from all over it; of a
    stream the first."""
    examples: int = 8
    """Pictures reconstructed in samples/, from all over the source; of a stream the first."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        for name in ("measure", "validate", "examples"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if isinstance(self.validation, Scenes) and not isinstance(self.data, Scenes):
            raise ValueError(
                "validation is scenes and data is not, so that codes would be counted on other "
                "pictures than they are for: choose validation:none, or validation:folder and "
                "--validation.path DIR"
            )
        learns = not isinstance(self.model, PretrainedDecoder)
        check_encoder_terms(self.encoder_terms, self.run, learns)
        if self.pixel.maps != 1 and isinstance(self.model, PretrainedDecoder):
            raise ValueError(
                f"pixel is {type(self.pixel).__name__}, which reads {self.pixel.maps} maps of each "
                "channel, and a pretrained decoder emits 1: choose pixel:l1, pixel:l2 or "
                "pixel:huber"
            )

    @property
    def encoder_terms(self) -> dict[str, EncoderTerm]:
        """What the encoder pays by itself, by the fields' names."""
        both = {"contraction": self.contraction, "contrast": self.contrast}
        return {name: term for name, term in both.items() if term is not None}


def image_mode(transform: Transform | None) -> Mode:
    """Channels of the images that a transform makes; without one they are RGB."""
    return transform.mode if transform else "RGB"


def image_size(data: Source, transform: Transform | None) -> int:
    """Pixels a side of the images that a source and a transform make, of buckets those of the
    square.

    Raises:
        ValueError: the source's pictures come in any size and nothing makes them equal, or they
            are squares and buckets are asked for.
    """
    if transform is not None:
        if isinstance(transform.crop, Buckets) and isinstance(data, Drawn):
            raise ValueError(
                f"transform.crop: {type(data).__name__} pictures are squares and need no buckets: "
                "choose transform:none"
            )
        return transform.crop.size
    if isinstance(data, Drawn):
        return data.size
    raise ValueError(
        f"{type(data).__name__} pictures come in any size: choose transform:transform and "
        "--transform.crop.size PIXELS"
    )


def shortest_side(data: Source, transform: Transform | None) -> int:
    """Pixels of the shortest side that an image may have, as `image_size`."""
    size = image_size(data, transform)
    return min(map(min, transform.shapes)) if transform else size


def shapes_of(size: int, transform: Transform | None) -> str:
    """What shapes images have, in words."""
    if transform is None or len(transform.shapes) == 1:
        return f"{size} pixels a side"
    first, *_, last = transform.shapes
    return f"in {len(transform.shapes)} buckets of about {size}x{size} pixels, {first} to {last}"


def check_sides(tokenizer: ImageTokenizer, size: int, transform: Transform | None) -> None:
    """Refuse images that do not come back with the size they went in.

    Raises:
        ValueError: `size` pixels a side, or the step of buckets, is no multiple of the factor.
    """
    crop = transform.crop if transform else None
    if isinstance(crop, Buckets) and crop.step % tokenizer.factor:
        raise ValueError(
            f"transform.crop.step is {crop.step}, and the tokenizer's factor {tokenizer.factor}: "
            "choose a multiple of that"
        )
    tokenizer.check(size)
