"""What a small fast decoder is distilled by: the recipe, and two by name."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from calotype.data import Folder, Scenes, Source, Transform
from calotype.data.reading.transforms import Flip, RandomCrop
from calotype.recipes.small import SIZE
from calotype.recipes.tokenizer import OfImages
from calotype.tokenizers.distillation import NewTiny, Student
from calotype.tokenizers.terms import L1, L2, LPIPS, Huber
from calotype.training import AdamW, Run


@dataclass(frozen=True)
class DistilRecipe(OfImages):
    """Distil a small fast AutoencoderTiny from a tokenizer: it takes that one's place in every
    pipeline of its latents.
    """

    teacher: str
    """Folder of a tokenizer, of its run or of a pipeline, or a name on the Hub."""
    data: Source = field(default_factory=Scenes)
    transform: Transform | None = None
    """How pictures become square images; None: they are already."""
    student: Student = field(default_factory=NewTiny)
    """What learns."""
    originals: float = 0.0
    """Fraction of its distances that is to the originals; the rest is to what the teacher makes of
    them."""
    encoding: float = 1.0
    """Weight of the error of its encoder, a mean square over latents."""
    pixel: L1 | L2 | Huber = field(default_factory=L1)
    perceptual: LPIPS | None = None
    optimizer: AdamW = field(default_factory=AdamW)
    measure: int = 256
    """Pictures, from all over the source, on which its decoder is measured beside the teacher's."""
    examples: int = 8
    """Pictures in samples/, from all over the source; of a stream the first."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        for name in ("measure", "examples"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if not 0 <= self.originals <= 1:
            raise ValueError(f"originals is {self.originals}: it is a fraction, from 0 to 1")
        if not self.encoding >= 0:
            raise ValueError(f"encoding is {self.encoding}: a weight is 0 or more")


def small_tiny() -> DistilRecipe:
    """A decoder of 0.16 million weights for the latents of small-kl; needs no download. Takes 0.1
    GiB in bf16.
    """
    return DistilRecipe(
        "runs/small-kl/model", Folder(Path("images")),
        Transform(RandomCrop(SIZE, resize=72), Flip()), NewTiny(width=32, blocks=2),
        optimizer=AdamW(lr=1e-3, betas=(0.9, 0.99), warmup=50, schedule="cosine"),
        run=Run(Path("runs/small-tiny"), steps=2_000, batch_size=16, ema=0.99,
                save_every=250, sample_every=250),
    )  # fmt: skip


def tiny() -> DistilRecipe:
    """A decoder of TAESD's size, 1.2 million weights, for the latents of ldm-kl-f8 or any other
    tokenizer, on crops of 256 pixels. Takes 6.5 GiB in bf16.
    """
    return replace(
        small_tiny(), teacher="runs/ldm-kl-f8/model",
        transform=Transform(RandomCrop(256, resize=384), Flip()), student=NewTiny(),
        perceptual=LPIPS(weight=0.1), optimizer=AdamW(lr=3e-4, warmup=500, schedule="cosine"),
        run=Run(Path("runs/tiny"), steps=50_000, batch_size=16, workers=8),
    )  # fmt: skip


DISTILLED: dict[str, Callable[[], DistilRecipe]] = {"small-tiny": small_tiny, "tiny": tiny}
