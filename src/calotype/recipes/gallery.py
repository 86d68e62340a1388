"""Images with their prompts: a page with check marks, and a plain picture of them."""

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from calotype.pipelines import picture
from calotype.training.checkpoint import write_text

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #222; background: #fff; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
img { width: 100%; image-rendering: pixelated; border: 1px solid #ccc; }
figcaption { font-size: 12px; }
.wrong { color: #b00; }
.right { color: #070; }
"""


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
    lines = "".join(f"<p>{escape(line)}</p>\n" for line in figures)
    body = "\n".join(_section(grid) for grid in grids)
    write_text(path, (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>calotype</title><style>{STYLE}</style></head>\n<body><h1>calotype</h1>\n"
        f"{lines}{body}\n</body></html>\n"
    ))  # fmt: skip


def _section(grid: Grid) -> str:
    figures = "\n".join(_figure(grid, i) for i in range(len(grid.images)))
    return f'<h2>{escape(grid.title)}</h2>\n<div class="grid">\n{figures}\n</div>'


def write_sheet(
    path: Path, images: Float[Tensor, "n 3 H W"], captions: Sequence[str], columns: int = 8,
    side: int = 128,
) -> None:  # fmt: skip
    """Write images of [-1, 1], each over its caption, to one PNG; `side` pixels a column."""
    font, below, gap = ImageFont.load_default(12), 76, 8
    rows = -(-len(images) // columns)
    size = columns * (side + gap) + gap, rows * (side + below) + gap
    sheet = Image.new("RGB", size, "white")
    ink = ImageDraw.Draw(sheet)
    for i, caption in enumerate(captions):
        x = gap + i % columns * (side + gap)
        y = gap + i // columns * (side + below)
        sheet.paste(picture(images[i]).resize((side, side), Image.Resampling.NEAREST), (x, y))
        lines = textwrap.wrap(caption, side // 6)[:5]
        ink.multiline_text((x, y + side + 2), "\n".join(lines), "black", font, spacing=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _figure(grid: Grid, i: int) -> str:
    buffer = io.BytesIO()
    picture(grid.images[i]).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    caption = escape(grid.captions[i]) if grid.captions else ""
    marks = _marks(grid.verdicts[i]) if grid.verdicts else ""
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption} {marks}</figcaption></figure>"


def _marks(verdict: Mapping[str, bool]) -> str:
    wrong = [name for name, right in verdict.items() if not right]
    if not wrong:
        return '<span class="right">✓</span>'
    return f'<span class="wrong">✗ {escape(", ".join(wrong))}</span>'
