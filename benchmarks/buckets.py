"""Tokenizers after equal steps on photographs of mixed ratios: aspect buckets beside square crops
of the same area, measured on whole pictures that neither was trained on.

    python benchmarks/buckets.py --data photos_train.parquet
    python benchmarks/buckets.py --data FOLDER

A table of square photographs, with a column `photo` by which an eighth is kept apart, is cut to
what cameras make: windows of 3:2, 4:3, 16:9 and 1:1, lying or standing, drawn by the seed. Of a
folder every eighth picture is kept apart and all are taken as they are. What is kept apart is
resized whole to about the same area, its sides rounded to the tokenizer's factor. Differences have
their standard errors over the pictures, not over runs: give other seeds. small-kl's network, loss
and optimiser; the learning rate falls along half a cosine over the steps.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Buckets, Flip, Folder, Pictures, RandomCrop, Transform
from calotype.data.aspect.bucketed import Bucketed
from calotype.data.aspect.sizes import sizes
from calotype.data.reading.transforms import eight_bits, pixels
from calotype.evaluation.distances import frechet
from calotype.evaluation.distortion import distortion
from calotype.evaluation.features import features
from calotype.recipes.small import small_kl
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms import LPIPS
from calotype.training import Run

RATIOS = (3 / 2, 2 / 3, 4 / 3, 3 / 4, 16 / 9, 9 / 16, 1.0)
"""Width / height of what cameras make."""
APART = 8
"""Of so many photographs one is kept apart."""


@dataclass(frozen=True)
class Options:
    """What is trained, and on what."""

    data: Path
    """A table of square photographs, or a folder of any."""
    out: Path = Path("runs/buckets")
    """Folder of pictures and tokenizers."""
    backbone_weights: Path | None = None
    """Folder of alexnet-features.safetensors, for LPIPS; None: without it."""
    size: int = 64
    """Pixels a side of the square, and the area of the buckets."""
    step: int = 8
    """Of the buckets."""
    steps: int = 300
    batch_size: int = 8
    seed: int = 0


def photographs(options: Options) -> tuple[Path, Path]:
    """Folders of pictures to train on and of those that are kept apart."""
    train, apart = options.out / "train", options.out / "apart"
    if not train.exists():
        for folder in (train, apart):
            folder.mkdir(parents=True)
        for number, (image, group) in enumerate(_source(options)):
            folder = apart if group % APART == 0 else train
            image.save(folder / f"{number:05d}.png")
    return train, apart


def _source(options: Options) -> Iterator[tuple[Image.Image, int]]:
    if options.data.is_dir():
        pictures = Folder(options.data).build()
        yield from ((pictures[i]["image"], i) for i in range(len(pictures)))
        return
    rng = np.random.default_rng(options.seed)
    rows = parquet.read_table(options.data, columns=["image", "photo"]).to_pylist()
    groups = {name: i for i, name in enumerate(sorted({row["photo"] for row in rows}))}
    for row in rows:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        yield _window(image, RATIOS[rng.integers(len(RATIOS))], rng), groups[row["photo"]]


def _window(image: Image.Image, ratio: float, rng: np.random.Generator) -> Image.Image:
    width = min(image.width, round(image.height * ratio))
    height = min(image.height, round(image.width / ratio))
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def trained(options: Options, name: str, crop: Any, train: Path) -> ImageTokenizer:
    """A tokenizer after the steps; one that is there is not trained again."""
    recipe = small_kl()
    run = replace(recipe.run, out=options.out / f"{name}-{options.steps}-{options.seed}",
                  steps=options.steps, batch_size=options.batch_size, seed=options.seed,
                  save_every=options.steps, sample_every=options.steps)  # fmt: skip
    if not run.model.exists():
        train_tokenizer(_recipe(recipe, run, crop, train))
    return ImageTokenizer.load(run.model)


def _recipe(recipe: Any, run: Run, crop: Any, train: Path) -> Any:
    return replace(recipe, data=Folder(train), transform=Transform(crop, Flip()), run=run,
                   measure=500)  # fmt: skip


def whole(image: Image.Image, size: int, factor: int) -> Image.Image:
    """All of a picture at about the area of a square; sides are multiples of the factor."""
    scale = size / (image.width * image.height) ** 0.5
    sides = [max(1, round(side * scale / factor)) * factor for side in image.size]
    return image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)


@torch.no_grad()
def measured(
    options: Options, tokenizer: ImageTokenizer, pictures: Pictures
) -> tuple[dict[str, Tensor], float]:
    """Figures of each whole picture, and the Frechet distance of all reconstructions."""
    judge, lpips = features("efficientnet-lite0"), {}
    if options.backbone_weights:
        file = options.backbone_weights / "alexnet-features.safetensors"
        lpips = {"alex": LPIPS(net="alex", backbone_weights=file).build()}
    values: dict[str, list[float]] = {}
    seen: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for i in range(len(pictures)):
        real = pixels(whole(pictures[i]["image"], options.size, tokenizer.factor))[None]
        pair = eight_bits(real), eight_bits(tokenizer.reconstruct(real))
        for name, found in distortion(*pair, lpips).items():
            values.setdefault(name, []).append(found.item())
        for each, into in zip(pair, seen, strict=True):
            into.append(judge(each))
    each = {name: torch.tensor(found) for name, found in values.items()}
    return each, frechet(*(torch.cat(found) for found in seen))


def main(options: Options) -> None:
    """Train both, measure both, and print a table."""
    train, apart = photographs(options)
    buckets = Buckets(options.size, options.step)
    pictures = Folder(apart).build()
    seen = Folder(train).build()
    lost = Bucketed(seen, buckets, sizes(seen)).lost
    found = {
        name: measured(options, trained(options, name, crop, train), pictures)
        for name, crop in (("square", RandomCrop(options.size)), ("buckets", buckets))
    }
    square = 1 - sizes(seen).min(1) / sizes(seen).max(1)
    (plain, apart_plain), (ours, apart_ours) = found["square"], found["buckets"]
    table = Table("crop", "cropped away, mean", "most", *plain, "frechet",
                  title=f"{options.steps} steps of {options.batch_size} of {len(seen)} "
                  f"photographs; {len(pictures)} whole ones measured")  # fmt: skip
    for name, away in (("square", square), ("buckets", lost)):
        figures, distance = found[name]
        means = [f"{values.mean():.4f}" for values in figures.values()]
        table.add_row(name, f"{away.mean():.1%}", f"{away.max():.1%}", *means, f"{distance:.1f}")
    apart_by = [ours[name] - plain[name] for name in plain]
    errors = [f"{d.mean():+.4f} ± {d.std() / len(d) ** 0.5:.4f}" for d in apart_by]
    table.add_row("difference", "", "", *errors, f"{apart_ours - apart_plain:+.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
