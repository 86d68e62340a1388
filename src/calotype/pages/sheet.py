"""Images over their captions, as one picture, small ones enlarged."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from calotype.pipelines import picture

VISIBLE = 256
"""Pixels a side of an image that one can look at."""
LINES = 5
"""Of a caption, at most."""


def enlarged(size: int) -> int:
    """Pixels a side of an image of `size` as it is shown: the least multiple that one can see."""
    return size * -(-VISIBLE // size)


def write_sheet(
    path: Path, images: Float[Tensor, "n 3 H W"], captions: Sequence[str], columns: int = 8,
    side: int = 128,
) -> None:  # fmt: skip
    """Write images of [-1, 1], each over its caption, to one picture of `columns` or fewer; each is
    `side` pixels wide, by nearest neighbours.
    """
    font, gap = ImageFont.load_default(12), 8
    texts = [textwrap.wrap(caption, side // 6)[:LINES] for caption in captions]
    below = 6 + 14 * max(map(len, texts), default=0)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = columns * (side + gap) + gap, rows * (side + below) + gap
    sheet = Image.new("RGB", size, "white")
    ink = ImageDraw.Draw(sheet)
    for i, lines in enumerate(texts):
        x = gap + i % columns * (side + gap)
        y = gap + i // columns * (side + below)
        sheet.paste(picture(images[i]).resize((side, side), Image.Resampling.NEAREST), (x, y))
        ink.multiline_text((x, y + side + 2), "\n".join(lines), "black", font, spacing=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
