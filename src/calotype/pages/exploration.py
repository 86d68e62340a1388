"""The page of what is in a tokenizer's latents: a map to point at, rows of pictures, sliders."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.pages.render import data_url, render
from calotype.pipelines import picture
from calotype.training.files import write_text
from calotype.training.images import visible

LARGEST = 128
"""Pixels a side of a picture on the page; larger ones are made smaller."""
THUMB = 48
"""Of one that a map shows."""
SEEN = 64
"""At least so wide a picture is seen, whatever pixels it has."""
SHEET = 32
"""Thumbs in a row of their sheet."""
COLOURS = ("#1558b0", "#d1495b", "#2e8b57", "#e39b0c", "#7a3fa0", "#168aa5", "#8c564b", "#d25fb0",
           "#5b6b1c", "#444444")  # fmt: skip
"""Of the commonest captions on a map."""
OTHER = "#b5b5b5"


@dataclass(frozen=True)
class Charted:
    """A map."""

    title: str
    line: str
    plane: Float[np.ndarray, "n 2"]
    captions: Sequence[str]
    images: Float[Tensor, "n c H W"]


@dataclass(frozen=True)
class Strip:
    """Pictures in a row, under a line."""

    text: str
    images: Float[Tensor, "n c H W"]
    """In [-1, 1]."""
    slides: bool = False
    """Whether one column is seen at a time, by a slider, beside all of them."""
    columns: int | None = None
    """Where there are several rows; None: one row."""


@dataclass(frozen=True)
class Tabled:
    """Figures."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """The first of each is its name."""


@dataclass(frozen=True)
class Shown:
    """A table, and strips, under a title."""

    title: str
    lines: Sequence[str]
    strips: Sequence[Strip]
    small: bool = False
    """Whether strips are cards beside each other."""
    table: Tabled | None = None


def write_exploration(
    path: Path, title: str, lines: Sequence[str], charted: Charted | None, shown: Sequence[Shown]
) -> None:
    """Write the page to one HTML file, in one step."""
    sections = [{"title": each.title, "lines": each.lines, "small": each.small,
                 "table": each.table, "strips": [_strip(strip) for strip in each.strips]}
                for each in shown]  # fmt: skip
    chart = None if charted is None else _chart(charted)
    write_text(path, render("exploration.html", title=title, lines=lines, chart=chart,
                            sections=sections))  # fmt: skip


def _strip(strip: Strip) -> dict[str, Any]:
    images = _smaller(visible(strip.images), LARGEST)
    columns = strip.columns or len(images)
    return {"text": strip.text, "slides": strip.slides, "columns": columns,
            "source": _source(_sheet(images, columns), "png"),
            "width": columns * max(SEEN, images.shape[-1]), "rows": -(-len(images) // columns),
            "shape": images.shape[-1] / images.shape[-2]}  # fmt: skip


def _chart(charted: Charted) -> dict[str, Any]:
    low, high = charted.plane.min(0), charted.plane.max(0)
    places = (charted.plane - low) / np.maximum(high - low, 1e-9)
    known = sorted(set(charted.captions), key=lambda c: (-charted.captions.count(c), c))
    named = known[: len(COLOURS)] if len(known) <= len(charted.captions) // 2 else []
    colour = dict(zip(named, COLOURS, strict=False))
    points = [
        {
            "x": f"{100 * x:.2f}",
            "y": f"{100 - 100 * y:.2f}",
            "n": n,
            "caption": caption,
            "colour": colour.get(caption, OTHER if named else COLOURS[0]),
        }
        for n, ((x, y), caption) in enumerate(zip(places, charted.captions, strict=True))
    ]
    thumbs = _smaller(visible(charted.images), THUMB)
    return {"title": charted.title, "line": charted.line, "points": points,
            "legend": list(colour.items()), "others": len(known) > len(named) > 0, "other": OTHER,
            "sheet": _source(_sheet(thumbs, SHEET), "webp"), "columns": SHEET,
            "rows": math.ceil(len(thumbs) / SHEET)}  # fmt: skip


def _sheet(images: Float[Tensor, "n 3 H W"], columns: int) -> Float[Tensor, "3 Y X"]:
    """Row by row; what is left of the last is white."""
    rows = -(-len(images) // columns)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (rows, columns))
    return grid.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def _smaller(images: Float[Tensor, "n 3 H W"], side: int) -> Float[Tensor, "n 3 h w"]:
    height, width = images.shape[-2:]
    if max(height, width) <= side:
        return images
    part = side / max(height, width)
    to = max(1, round(height * part)), max(1, round(width * part))
    return torch.nn.functional.interpolate(images, to, mode="area")


def _source(image: Float[Tensor, "3 H W"], kind: str) -> str:
    out = io.BytesIO()
    picture(image).save(out, kind, **({"quality": 80} if kind == "webp" else {}))
    return data_url(out.getvalue(), kind)
