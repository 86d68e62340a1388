"""What a diffusion model in cached latents is trained by: the recipe."""

from dataclasses import dataclass, field
from pathlib import Path

from calotype.diffusion import (
    Flow,
    Frames,
    LearntText,
    ProcessSpec,
    TextSpec,
    UNet,
)
from calotype.pipelines import Sampling
from calotype.recipes.cached import check_drop
from calotype.training import AdamW, Run


@dataclass(frozen=True)
class GeneratorRecipe:
    """Train a diffusion model in cached latents."""

    tokenizer: str
    """The tokenizer that encoded them: its folder, or its name on the Hub."""
    cache: Path
    """Folder of the cache, or its URL in a bucket, such as s3://bucket/latents."""
    unet: UNet = field(default_factory=UNet)
    process: ProcessSpec = field(default_factory=Flow)
    text: TextSpec | None = field(default_factory=LearntText)
    """The text encoder; None: unconditional."""
    frames: Frames | None = None
    """Whether the UNet is told how large the picture was and where it was cropped, of which the
    cache keeps frames; None: it is not."""
    drop: float = 0.1
    """Fraction of prompts that are replaced by the empty one, so that guidance can be used."""
    optimizer: AdamW = field(default_factory=AdamW)
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    held_out: int = 0
    """Samples of the cache, evenly spread, that are not trained on: their losses are measured every
    `run.evaluate_every` steps."""
    prompts: tuple[str, ...] = ()
    """Prompts of the pictures in samples/; none: captions from all over
    the cache."""
    sampling: Sampling = field(default_factory=Sampling)
    """How those pictures are drawn, and `calotype generate` unless told otherwise."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_drop(self.drop)
        if self.frames and not (isinstance(self.text, LearntText) and self.text.layers > 1):
            raise ValueError(
                "frames: the pipeline that is told them attends to the last layer but one of a "
                "text encoder with a projection: choose text:learnt-text with --text.layers 2 or "
                "more"
            )
