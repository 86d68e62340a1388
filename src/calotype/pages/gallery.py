"""Images with their prompts, and whether they show them: one page."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from calotype.pages.render import data_url, render
from calotype.pipelines import picture
from calotype.training.checkpoint import write_text


@dataclass(frozen=True)
class Grid:
    """A titled set of images."""

    title: str
    images: Float[Tensor, "n 3 H W"]
    """In [-1, 1]."""
    captions: Sequence[str] | None
    verdicts: Sequence[Mapping[str, bool]] | None
    """For each image, which factors hold; None: nothing to check."""


def write_gallery(path: Path, figures: Sequence[str], grids: Sequence[Grid]) -> None:
    """Write the page, images and all, to one HTML file; `figures` are lines that stand on top."""
    shown = [{"title": grid.title, "cells": list(_cells(grid))} for grid in grids]
    write_text(path, render("gallery.html", lines=figures, grids=shown))


def _cells(grid: Grid) -> Iterator[dict[str, Any]]:
    for i, image in enumerate(grid.images):
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
