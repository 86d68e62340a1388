"""What `calotype restore` gives back of held-out pictures, beside classical methods.

    python benchmarks/restoring.py --photos photos.parquet --backbone-weights DIR

Trains `small-restore`, and for holes `small-inpaint`, for each set and task, unless its model is in
--out already, spoils pictures that training did not show, and restores them. Sets are drawn scenes
of unseen combinations and, where --photos names a parquet file of them, photographs, split by its
column `photo`, of which a part is held out. Exits with 1 unless

- noise of deviation 0.5 in [-1, 1]: 2 dB more than total variation, whose weight is the best;
- `inpaint`, three quarters of patches of 16x16 hidden (as He et al. 2022), and `hole`, 24x24 in the
  middle of 64x64: 2 dB more than the biharmonic equation, of the error of all pictures together:
  that equation is exact on plain ground, which rules a mean of decibels;
- four times as wide and high, trained with LPIPS of VGG: of AlexNet, which its authors measure by
  and which training did not see, a third less than bicubic.

One training takes half an hour of two cores; --tasks and --sets choose, and --steps shortens.
--tokenizer and --pipeline name models of any training whose other ways are told beside, without a
bar.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image

from calotype.commands.restore import Restore, restore_pictures
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Parquet, Scenes, Source
from calotype.lazy import pyarrow
from calotype.pipelines import picture
from calotype.recipes.small import SIZE, small_inpaint, small_restore
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.tokenizers.corruptions import Downsampling, GaussianNoise, HiddenPatches
from calotype.tokenizers.terms import LPIPS
from calotype.training import Run
from calotype.uses.restoration import (
    Denoise,
    Forward,
    Inpaint,
    Optimise,
    Posterior,
    SuperResolve,
    Task,
    Way,
)

Set = Literal["scenes", "photos"]
Name = Literal["denoise", "inpaint", "hole", "super-resolve"]
HOLE, PATCH, HIDDEN = 24, 16, 0.75
FIGURES = ("psnr_db", "pooled_psnr_db", "ssim", "lpips_alex", "lpips_vgg")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    photos: Path | None = None
    """Parquet file of photographs, in a column `image`; `photo` says which each is a part of."""
    backbone_weights: Path | None = None
    """Folder of LPIPS's backbones; None: torchvision fetches them."""
    out: Path = Path("runs/restoring")
    sets: tuple[Set, ...] = ("scenes", "photos")
    tasks: tuple[Name, ...] = ("denoise", "inpaint", "hole", "super-resolve")
    steps: int | None = None
    """Of each training; None: as the recipe says."""
    held: float = 0.15
    """Part of the photographs that training is not shown."""
    measured: int = 96
    """Pictures that are restored."""
    tokenizer: Path | None = None
    """A tokenizer by which `optimise` is told beside."""
    pipeline: Path | None = None
    """A pipeline by which `posterior` is told beside."""


@dataclass(frozen=True)
class Case:
    """A task, what teaches it, and what it has to beat."""

    task: Task
    recipe: TokenizerRecipe
    baseline: str
    figure: str
    perceptual: bool = False

    def holds(self, own: float, other: float) -> bool:
        """Whether the bar is met."""
        return own <= other * 2 / 3 if self.perceptual else own >= other + 2

    @property
    def bar(self) -> str:
        """In words."""
        return f"a third below {self.baseline}" if self.perceptual else f"{self.baseline} + 2 dB"


EDGE = (SIZE - HOLE) // 2


def cases(out: Path) -> dict[Name, Case]:
    """What is measured; the mask picture lies in `out`."""
    mask = out / "mask.png"
    if not mask.exists():
        hidden = np.random.default_rng(0).permutation((SIZE // PATCH) ** 2)
        grid = (hidden < HIDDEN * hidden.size).reshape(SIZE // PATCH, -1)
        out.mkdir(parents=True, exist_ok=True)
        white = np.kron(grid, np.full((PATCH, PATCH), 255)).astype(np.uint8)
        Image.fromarray(white).save(mask)
    patches = HiddenPatches(HIDDEN, PATCH, value=None)
    return {
        "denoise": Case(
            Denoise(0.5), replace(small_restore(), corruption=GaussianNoise(0.5)),
            "total variation", "psnr_db"),
        "inpaint": Case(
            Inpaint(mask=mask), replace(small_inpaint(), corruption=patches), "biharmonic",
            "pooled_psnr_db"),
        "hole": Case(
            Inpaint(box=(EDGE, EDGE, SIZE - EDGE, SIZE - EDGE)), small_inpaint(), "biharmonic",
            "pooled_psnr_db"),
        "super-resolve": Case(
            SuperResolve(4), replace(small_restore(), corruption=Downsampling(4)), "bicubic",
            "lpips_alex", True),
    }  # fmt: skip


def main(options: Options) -> None:
    """Train what is not there, restore, and print tables."""
    missed = []
    for name in options.sets:
        if name == "photos" and options.photos is None:
            print("photographs are left out: --photos names none")
            continue
        learnt, held = pictures(name, options)
        for kind in options.tasks:
            case, out = cases(options.out)[kind], options.out / name / kind
            model = out / "model"
            if not model.is_dir():
                train_tokenizer(recipe(case, learnt, out, options))
            found = measured(held, str(out), kind, case.task, Forward(), options)
            print(f"\n## {name}, {kind}\n\n| | PSNR, dB | of all | SSIM | LPIPS alex | vgg |\n"
                  + "|---" * 6 + "|")  # fmt: skip
            for row in rows(found, held, kind, case, options):
                print(row, flush=True)
            own, other = (float(found[who][case.figure])
                          for who in ("restored", called(found, case.baseline)))  # fmt: skip
            told = f"{name}, {kind}: {case.figure} {own:.3f} beside {other:.3f}, bar {case.bar}"
            print(f"\n{told}: {'met' if case.holds(own, other) else '**missed**'}", flush=True)
            missed += [] if case.holds(own, other) else [told]
    sys.exit(bool(missed))


def pictures(name: Set, options: Options) -> tuple[Source, Path]:
    """What is learnt from, and where held-out pictures lie."""
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "scenes":
        held = folder / "held"
        held.mkdir(exist_ok=True)
        data = Scenes(size=SIZE, split="held-out", count=options.measured).build()
        for i, image in enumerate(data.batch(range(options.measured))["image"]):
            picture(image).save(held / f"{i:03}.png")
        return Scenes(size=SIZE), held
    table = pyarrow.parquet.read_table(options.photos)
    names = np.array(table["photo"].to_pylist())
    every = np.random.default_rng(0).permutation(np.unique(names))
    last = np.isin(names, every[round((1 - options.held) * len(every)) :])
    for part, rows in (("learnt", ~last), ("held", last)):
        pyarrow.parquet.write_table(table.filter(rows), folder / f"{part}.parquet")
    return Parquet(folder / "learnt.parquet", caption_column=None), folder / "held.parquet"


def recipe(case: Case, learnt: Source, out: Path, options: Options) -> TokenizerRecipe:
    """What a case is trained by; it goes on where it was stopped."""
    base = case.recipe
    weights = options.backbone_weights and options.backbone_weights / "vgg16-features.safetensors"
    perceptual = LPIPS(0.2, "vgg", weights) if case.perceptual else None
    run: Run = replace(base.run, out=out, resume=True, steps=options.steps or base.run.steps)
    return replace(
        base, data=learnt, transform=None if isinstance(learnt, Scenes) else base.transform,
        perceptual=perceptual, measure=512, run=run,
    )  # fmt: skip


Figures = dict[str, dict[str, float]]


def measured(
    held: Path, model: str, kind: Name, task: Task, way: Way, options: Options
) -> Figures:  # fmt: skip
    """Means by what restored them; the page lies in a folder of its own."""
    out = options.out / "pages" / held.parent.name / f"{kind}-{type(way).__name__.lower()}"
    restore_pictures(Restore(
        held, model, task, way, degrade=True, size=SIZE, count=options.measured, out=out,
        backbone_weights=options.backbone_weights,
    ))  # fmt: skip
    return json.loads((out / "restored.json").read_text())["figures"]


def rows(
    found: Figures, held: Path, kind: Name, case: Case, options: Options
) -> Iterator[str]:  # fmt: skip
    """Of the table, other ways among them."""
    for name, figures in found.items():
        yield row("forward" if name == "restored" else name, figures)
    for model, way in ((options.tokenizer, Optimise()), (options.pipeline, Posterior())):
        if model is not None:
            figures = measured(held, str(model), kind, case.task, way, options)["restored"]
            yield row(f"{type(way).__name__.lower()}, {model}", figures)


def row(name: str, figures: dict[str, float]) -> str:
    """A line of the table; a figure that could not be had is a dash."""
    cells = (f"{figures[each]:.3f}" if each in figures else "-" for each in FIGURES)
    return f"| {name} | {' | '.join(cells)} |"


def called(found: Figures, baseline: str) -> str:
    """A classical method with its setting."""
    return next(name for name in found if name.split(",")[0] == baseline)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
