"""The picture of docs/family.md: what each named recipe of digits makes of the same digits.

    python benchmarks/family_pictures.py --out docs/family.png

Trains each of them as it is named, or for fewer steps with --steps, and forgets it.
"""

import argparse
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from claims.learning import digits
from torch import Tensor

from calotype.commands.train_tokenizer import train_tokenizer
from calotype.lazy import matplotlib
from calotype.recipes.family import FAMILY
from calotype.tokenizers import ImageTokenizer

SHOWN = 8
DRAWS = ("digits-vae", "digits-poisson", "digits-rbm")
"""Whose prior is drawn from too."""


def main() -> None:
    """Train, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/family.png"))
    parser.add_argument("--steps", type=int, help="of each; as named where it is not given")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "no stock class")
    held = digits()[2][: 5 * SHOWN : 5]
    rows = {"digits": held}
    for name in [name for name in FAMILY if name.startswith("digits-")]:
        rows |= made(name, held, options.steps)
    sheet(rows, options.out)


def made(name: str, held: Tensor, steps: int | None) -> dict[str, Tensor]:
    """What a recipe makes of digits, and of its prior."""
    recipe = FAMILY[name]()
    with tempfile.TemporaryDirectory() as folder:
        run = replace(recipe.run, out=Path(folder, name), steps=steps or recipe.run.steps)
        tokenizer = ImageTokenizer.load(train_tokenizer(replace(recipe, run=run)))
    chance = [torch.Generator().manual_seed(i) for i in range(SHOWN)]
    seen = recipe.corruption(held, chance).images if recipe.corruption else held
    rows = {f"{name}, of noise" if recipe.corruption else name: tokenizer.reconstruct(seen)}
    if recipe.corruption:
        rows = {"with noise": seen, **rows}
    if name in DRAWS:
        neck = tokenizer.bottleneck
        if name == "digits-vae":
            z = torch.stack([torch.randn(neck.z_channels, 1, 1, generator=g) for g in chance])
        else:
            z = neck.sample_prior(1, 1, chance)  # type: ignore[operator]
        with torch.no_grad():
            rows[f"{name}, of its prior"] = tokenizer.decode(z)
    return rows


def sheet(rows: dict[str, Tensor], out: Path) -> None:
    """Write the picture: a row for each name."""
    figure, axes = matplotlib.pyplot.subplots(len(rows), 1, figsize=(5.2, 0.52 * len(rows)))
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        framed = torch.nn.functional.pad(images.clamp(-1, 1), (1, 1, 1, 1), value=1.0)
        axis.imshow(torch.cat(list(framed[:, 0]), 1), cmap="gray", vmin=-1, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.3, right=1, top=1, bottom=0, hspace=0.04)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
