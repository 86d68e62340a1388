"""What each named recipe of the family comes to, trained as it is named (docs/family.md).

    python benchmarks/family_recipes.py                          all of them, an hour of two cores
    python benchmarks/family_recipes.py digits-ae digits-rbm     some of them

Of pictures that were held out: PSNR of what is rebuilt, by the likeliest latent, of what is spoilt
as in training, and the divergence; seconds of training. `scenes-mae` has the error of hidden
patches beside that of filling them by their mean.
"""

import json
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from calotype.commands.train_encoder import train_encoder
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Transform, once
from calotype.recipes.family import FAMILY
from calotype.recipes.masked import MASKED
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.training.images import scaled
from calotype.training.noise import generators

MASKING = "scenes-mae"


@dataclass
class Came:
    """What a recipe came to; None where it has no such figure."""

    seconds: float
    psnr: float | None = None
    restored: float | None = None
    nats: float | None = None
    said: str = ""

    def row(self, name: str) -> str:
        """For a table."""
        figures = ("" if value is None else f"{value:.1f}"
                   for value in (self.psnr, self.restored, self.nats))  # fmt: skip
        return f"| {name} | {' | '.join(figures)} | {self.seconds:.0f} | {self.said} |"


def tokenizer(recipe: TokenizerRecipe, out: Path) -> Came:
    """Train it, and read what it says of pictures that were held out."""
    began = time.perf_counter()
    model = train_tokenizer(replace(recipe, run=replace(recipe.run, out=out)))
    came = Came(time.perf_counter() - began)
    figures = last(out)
    named = {name.rsplit("/", 1)[-1]: value for name, value in figures.items()}
    came.psnr, came.restored = named.get("psnr_db"), named.get("restored")
    if came.restored is not None:
        came.said = f"spoilt {named['corrupted']:.1f} dB"
    came.nats = divergence(recipe, model)
    return came


@torch.no_grad()
def divergence(recipe: TokenizerRecipe, model: Path) -> float | None:
    """Mean over held-out pictures, in nats; None where training knew of none: the stock class that
    such a model is saved as tells one that means nothing.
    """
    if isinstance(recipe.model, NewTokenizer) and isinstance(recipe.model.bottleneck, Identity):
        return None
    made, found = ImageTokenizer.load(model), list[torch.Tensor]()
    if recipe.validation is None:
        return None
    crop: Transform | None = recipe.transform
    for batch in once(recipe.validation.build(), 64, crop):
        images = scaled(batch["image"])
        latent = made.encode(images, generators(range(len(images))))
        if latent.divergence is None:
            return None
        found.append(latent.divergence)
    return torch.cat(found).mean().item()


def masked(out: Path) -> Came:
    """The masked autoencoder."""
    recipe, began = MASKED[MASKING](), time.perf_counter()
    train_encoder(replace(recipe, run=replace(recipe.run, out=out)))
    told = last(out)
    part = f"hidden patches {told['masked']:.3f}, their mean {told['mean_fill']:.3f}"
    return Came(time.perf_counter() - began, said=part)


def last(out: Path) -> dict[str, float]:
    """The last of each figure that a run logged."""
    found: dict[str, float] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        found |= json.loads(line)
    return found


def main(names: list[str]) -> None:
    """Train, print."""
    every = [*FAMILY, MASKING]
    if unknown := set(names) - set(every):
        sys.exit(f"no recipe {', '.join(unknown)}: choose from {', '.join(every)}")
    warnings.filterwarnings("ignore", "no stock class")
    print("| recipe | held-out PSNR, dB | restored, dB | nats | seconds | |")
    print("|---|---|---|---|---|---|")
    for name in names or every:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, name)
            came = masked(out) if name == MASKING else tokenizer(FAMILY[name](), out)
        print(came.row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
