"""The page that grows while a journey of several runs is under way, and what it ends in.

What training has made so far is read from the files of the runs' folders, so that a page can be
written at any time, from beside the training, and after a restart.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from calotype.pages.charts import charts
from calotype.pages.render import data_url, render
from calotype.pages.tiles import newest, tiles
from calotype.pipelines import picture
from calotype.training.files import write_text
from calotype.training.images import visible

REFRESH = 20
"""Seconds after which an unfinished page loads itself again."""
PAIR = ("original", "decoded")
"""What the two images of a pair are."""
TRIPLE = ("original", "corrupted", "restored")
"""What three are, of a tokenizer that is trained with a corruption."""


@dataclass(frozen=True)
class Grid:
    """A titled set of images."""

    title: str
    images: Float[Tensor, "n c H W"]
    """In [-1, 1]; alpha is shown over a checkerboard."""
    captions: Sequence[str] | None
    verdicts: Sequence[Mapping[str, bool]] | None
    """For each image, which factors hold; None: nothing to check."""
    pairs: bool = False
    """Whether the images are pairs, to be seen side by side."""


@dataclass(frozen=True)
class Stage:
    """A line of what is done, under way or still to come."""

    name: str
    state: Literal["done", "now", "to come"]
    note: str
    """What it is for, how far it is or how long it takes."""


@dataclass(frozen=True)
class Training:
    """A run whose charts and newest samples are shown, from the files in its folder."""

    title: str
    out: Path
    """The run's folder."""
    size: int
    """Pixels a side of its images."""
    captions: tuple[str, ...]
    """Of each image in a grid of its samples."""
    pairs: bool = False
    """Whether the images are pairs, to be seen side by side."""


@dataclass(frozen=True)
class Gallery:
    """All that the page shows."""

    title: str
    lines: Sequence[str] = ()
    """What stands on top: what this is, and in the end its figures."""
    stages: Sequence[Stage] = ()
    left: str = ""
    """How long all that is to come takes, in words."""
    trainings: Sequence[Training] = ()
    grids: Sequence[Grid] = ()
    commands: Sequence[str] = ()
    """What does the same part by part."""
    finished: bool = True
    """Whether nothing is to come; until then the page loads itself again."""
    stopped: bool = False
    """Whether it finished before its end: then what runs made on the way is all there is."""


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Write the page, images and all, to one HTML file, in one step: it can be open meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grids = [{"title": grid.title, "pairs": grid.pairs, "cells": list(_cells(grid))}
             for grid in gallery.grids]  # fmt: skip
    runs = [_training(training) for training in gallery.trainings]
    begun = [run for run in runs if run["charts"] or run["cells"]]
    write_text(path, render("gallery.html", gallery=gallery, grids=grids, trainings=begun,
                            refresh=REFRESH))  # fmt: skip


def _cells(grid: Grid) -> Iterator[dict[str, Any]]:
    for i, image in enumerate(visible(grid.images)):
        buffer = io.BytesIO()
        picture(image).save(buffer, "PNG")
        wrong = None
        if grid.verdicts:
            wrong = [name for name, right in grid.verdicts[i].items() if not right]
        yield {
            "caption": grid.captions[i] if grid.captions else "",
            "source": data_url(buffer.getvalue()),
            "wrong": wrong,
        }


def _training(training: Training) -> dict[str, Any]:
    """What a run has made so far: nothing, if it has not begun."""
    found = newest(training.out / "samples")
    images = tiles(found, training.size, len(training.captions)) if found else []
    cells = [
        {"caption": caption, "source": data_url(image), "wrong": None}
        for caption, image in zip(training.captions, images, strict=False)
    ]
    step = int(found.stem) if found else None
    return {"title": training.title, "charts": charts(training.out / "metrics.jsonl"),
            "cells": cells, "pairs": training.pairs, "step": step}  # fmt: skip
