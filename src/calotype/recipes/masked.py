"""What a masked autoencoder is trained by: the recipe, and the named ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from calotype.data import Folder, RandomResizedCrop, Scenes, Source, Transform
from calotype.data.reading.transforms import Flip
from calotype.recipes.tokenizer import OfImages
from calotype.tokenizers.masked import AtRandom, MaskedViT, PolicySpec, rate
from calotype.training import AdamW, Run


@dataclass(frozen=True)
class MaskedRecipe(OfImages):
    """Train an encoder by hiding most of each picture."""

    data: Source = field(default_factory=Scenes)
    transform: Transform | None = None
    """How pictures become images of one size; None: they are squares already."""
    network: MaskedViT = field(default_factory=MaskedViT)
    policy: PolicySpec = field(default_factory=AtRandom)
    """Which patches are hidden."""
    optimizer: AdamW = field(default_factory=AdamW)
    examples: int = 8
    """Pictures shown in samples/, from all over the source; of a stream the first."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples is {self.examples}: it must be at least 1")


def scenes_mae() -> MaskedRecipe:
    """Scenes of 32 pixels, three quarters of their 64 patches hidden: in 5 minutes of two cores
    what is hidden is guessed from what is seen, with a third of the error of its mean. Needs no
    download.
    """
    network = MaskedViT(4, 96, 4, 4, 64, 2, 4, normalised=False)
    return MaskedRecipe(
        Scenes(size=32), None, network,
        optimizer=AdamW(1e-3, (0.9, 0.95), 0.05, warmup=100, schedule="cosine"),
        run=Run(Path("runs/scenes-mae"), steps=3000, batch_size=64, ema=None),
    )  # fmt: skip


def mae_base() -> MaskedRecipe:
    """ViT-B/16 of 224 pixels (He et al. 2022, appendix A.1: batches of 4096, 800 epochs of
    ImageNet, of which 40 warm up; 83.6 % when all of it is finetuned).
    """
    batch, epoch = 4096, 1_281_167 // 4096
    return MaskedRecipe(
        Folder(Path("images")), Transform(RandomResizedCrop(224), Flip()), MaskedViT(),
        optimizer=AdamW(rate(batch), (0.9, 0.95), 0.05, warmup=40 * epoch, schedule="cosine"),
        run=Run(Path("runs/mae-base"), steps=800 * epoch, batch_size=batch, ema=None),
    )  # fmt: skip


MASKED: dict[str, Callable[[], MaskedRecipe]] = {"scenes-mae": scenes_mae, "mae-base": mae_base}
