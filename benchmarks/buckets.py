"""Tokenizers after equal steps on photographs of mixed ratios: aspect buckets beside square crops
of the same area, measured on whole pictures that neither was trained on.

    python benchmarks/buckets.py --data photos_train.parquet --backbone-weights FOLDER
    python benchmarks/buckets.py --data FOLDER --steps 3000 --seeds 5

A table of square photographs, with a column `photo` by which an eighth is kept apart, is cut to
what cameras make: windows of 3:2, 4:3, 16:9 and 1:1, lying or standing, drawn by chance. Of a
folder every eighth picture is kept apart and all are taken as they are. What is kept apart is
resized whole to about the same area, its sides rounded to the tokenizer's factor. Pictures and
windows are the same for all seeds; those are of the runs, of which each crop has one a seed, and
differences are between the two of a seed. The network is small-kl's at two thirds of its widths,
with its loss and optimiser; the learning rate falls along half a cosine over the steps. Three seeds
are sized for less than twelve minutes of two idle cores.
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
from calotype.data import Buckets, Crop, Flip, Folder, Pictures, RandomCrop, Transform
from calotype.data.aspect.bucketed import Bucketed
from calotype.data.aspect.sizes import Sizes, sizes
from calotype.data.reading.transforms import eight_bits, pixels
from calotype.evaluation.distances import frechet
from calotype.evaluation.distortion import distortion
from calotype.evaluation.features import features
from calotype.recipes.small import small_kl
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms import LPIPS
from calotype.training import Run

RATIOS = (3 / 2, 2 / 3, 4 / 3, 3 / 4, 16 / 9, 9 / 16, 1.0)
"""Width / height of what cameras make."""
APART = 8
"""Of so many photographs one is kept apart."""
WIDTHS = (16, 32, 64)
"""Of the network."""
MOST = 0.12
"""Of a picture's area that may be cropped away."""
EACH = 16
"""Pictures that are measured at a time."""
Lost = dict[str, np.ndarray]
"""By a crop's name, part of each picture's area that it takes away."""


@dataclass(frozen=True)
class Options:
    """What is trained, and on what."""

    data: Path
    """A table of square photographs, or a folder of any."""
    out: Path = Path("runs/buckets")
    """Folder of pictures and tokenizers."""
    backbone_weights: Path | None = None
    """Folder of alexnet-features.safetensors, for LPIPS; None: without it."""
    size: int = 48
    """Pixels a side of the square, and the area of the buckets."""
    step: int = 4
    """Of the buckets."""
    steps: int = 1_000
    batch_size: int = 8
    seeds: int = 3
    """Runs of each crop, of the seeds 0, 1 and so on."""


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
    rng = np.random.default_rng(0)
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


def trained(options: Options, name: str, crop: Any, train: Path, seed: int) -> ImageTokenizer:
    """A tokenizer after the steps; one that is there is not trained again."""
    recipe = small_kl()
    run = replace(recipe.run, out=options.out / f"{name}-{options.size}-{options.steps}-{seed}",
                  steps=options.steps, batch_size=options.batch_size, seed=seed,
                  save_every=options.steps, sample_every=options.steps)  # fmt: skip
    if not run.model.exists():
        train_tokenizer(_recipe(recipe, run, crop, train))
    return ImageTokenizer.load(run.model)


def _recipe(recipe: TokenizerRecipe, run: Run, crop: Crop, train: Path) -> TokenizerRecipe:
    assert isinstance(recipe.model, NewTokenizer)
    model = replace(recipe.model, backbone=replace(recipe.model.backbone, widths=WIDTHS))
    return replace(recipe, data=Folder(train), transform=Transform(crop, Flip()), model=model,
                   run=run, measure=500)  # fmt: skip


def whole(image: Image.Image, size: int, factor: int) -> Image.Image:
    """All of a picture at about the area of a square; sides are multiples of the factor."""
    scale = size / (image.width * image.height) ** 0.5
    sides = [max(1, round(side * scale / factor)) * factor for side in image.size]
    return image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)


class Judge:
    """Measures tokenizers on whole pictures of about the area of a square."""

    def __init__(self, options: Options, pictures: Pictures) -> None:
        self.size, self.pictures = options.size, pictures
        self.features, self.lpips = features("efficientnet-lite0"), {}
        if options.backbone_weights:
            file = options.backbone_weights / "alexnet-features.safetensors"
            self.lpips = {"alex": LPIPS(net="alex", backbone_weights=file).build()}

    @torch.no_grad()
    def __call__(self, tokenizer: ImageTokenizer) -> dict[str, float]:
        """Means over the pictures, and the Frechet distance of all reconstructions."""
        values: dict[str, list[Tensor]] = {}
        seen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for real in self._batches(tokenizer.factor):
            pair = eight_bits(real), eight_bits(tokenizer.reconstruct(real))
            for name, found in distortion(*pair, self.lpips).items():
                values.setdefault(name, []).append(found)
            for each, into in zip(pair, seen, strict=True):
                into.append(self.features(each))
        means = {name: torch.cat(found).mean().item() for name, found in values.items()}
        return {**means, "frechet": frechet(*(torch.cat(found) for found in seen))}

    def _batches(self, factor: int) -> Iterator[Tensor]:
        """All pictures, those of one shape together."""
        shapes: dict[torch.Size, list[Tensor]] = {}
        for i in range(len(self.pictures)):
            image = pixels(whole(self.pictures[i]["image"], self.size, factor))
            shapes.setdefault(image.shape, []).append(image)
        for images in shapes.values():
            yield from torch.stack(images).split(EACH)


def squares_lose(found: Sizes) -> np.ndarray:
    """Part of each picture's area that a square does not show."""
    return 1 - found.min(1) / found.max(1)


def table(options: Options, found: dict[str, list[dict[str, float]]], lost: Lost) -> Table:
    """What was found of each crop, a line of figures a seed, as means and spreads."""
    names = list(found["square"][0])
    made = Table("crop", "cropped, mean", "most", f"by > {MOST:.0%}", *names,
                 title=f"{options.steps} steps of {options.batch_size}, {options.seeds} seeds; "
                 "figures ± their standard deviation over the seeds")  # fmt: skip
    for crop, away in lost.items():
        cropped = [f"{away.mean():.1%}", f"{away.max():.1%}", f"{(away > MOST).mean():.1%}"]
        made.add_row(crop, *cropped, *(_spread([each[n] for each in found[crop]]) for n in names))
    pairs = list(zip(found["buckets"], found["square"], strict=True))
    apart = [_spread([ours[name] - plain[name] for ours, plain in pairs], "+") for name in names]
    made.add_row("difference", "", "", "", *apart)
    return made


def _spread(values: list[float], sign: str = "") -> str:
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.4f}{deviation}"


def main(options: Options) -> None:
    """Train both for each seed, measure both, and print a table.

    Raises:
        SystemExit: buckets crop more of a picture than they promise.
    """
    train, apart = photographs(options)
    buckets = Buckets(options.size, options.step)
    seen, judge = Folder(train).build(), Judge(options, Folder(apart).build())
    lost = {
        "square": squares_lose(sizes(seen)),
        "buckets": Bucketed(seen, buckets, sizes(seen)).lost,
    }
    crops: dict[str, Crop] = {"square": RandomCrop(options.size), "buckets": buckets}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in crops}
    for seed in range(options.seeds):
        for name, crop in crops.items():
            found[name].append(judge(trained(options, name, crop, train, seed)))
        Console(width=140).print(table(replace(options, seeds=seed + 1), found, lost))
    if (lost["buckets"] > MOST).any():
        raise SystemExit(f"{(lost['buckets'] > MOST).sum()} pictures are cropped by more than 12 %")


if __name__ == "__main__":
    main(tyro.cli(Options))
