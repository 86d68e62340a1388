"""What a transformer over cached tokens is trained by: the recipe."""

from dataclasses import dataclass, field
from pathlib import Path

from calotype.autoregressive import (
    Annealed,
    Init,
    Normal,
    Order,
    Raster,
    TokenSampling,
    Transformer,
)
from calotype.recipes.cached import check_drop
from calotype.training import AdamW, Run


@dataclass(frozen=True)
class TrainedTransformer:
    """A trained one, which goes on as it is: over the same codes, prompts and sizes of images."""

    path: str
    """Folder of a token pipeline, or of its run, or a name on the Hub."""


@dataclass(frozen=True)
class TransformerRecipe:
    """Train an autoregressive transformer over cached ids of codes and their prompts."""

    tokenizer: str
    """The tokenizer that encoded them: its folder, or its name on the Hub."""
    cache: Path
    """Folder of the cache, or its URL in a bucket, such as s3://bucket/latents."""
    transformer: Transformer | TrainedTransformer = field(default_factory=Transformer)
    """The network, fresh or trained."""
    init: Init = field(default_factory=Normal)
    """What the embeddings and output rows of image tokens begin with, where it is fresh."""
    prompted: bool = True
    """Whether it reads prompts, or classes where the cache's text is that; no: unconditional."""
    order: Order = field(default_factory=Raster)
    """In which order an image's tokens are learnt."""
    drop: float = 0.1
    """Fraction of prompts that are left out, so that guidance can be used."""
    image_weight: float = 7.0
    """Of the image tokens' loss beside that of text, which weighs 1 (Ramesh et al. 2021)."""
    optimizer: AdamW = field(default_factory=AdamW)
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    held_out: int = 0
    """Samples of the cache, evenly spread, that are not trained on: their losses are measured every
    `run.evaluate_every` steps."""
    prompts: tuple[str, ...] = ()
    """Prompts of the pictures in samples/; none: captions from all over
    the cache."""
    sampling: TokenSampling = field(default_factory=TokenSampling)
    """How those pictures are drawn, and `calotype generate` unless told otherwise."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_drop(self.drop)
        if not self.image_weight > 0:
            raise ValueError(f"image_weight is {self.image_weight}: it must be positive")
        if isinstance(self.order, Annealed) and self.order.end > self.run.steps:
            raise ValueError(
                f"order.end is {self.order.end}, but run.steps is {self.run.steps}: images are "
                "drawn row by row, so random orders must have faded by then"
            )
