"""Images over their captions, as one picture."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from calotype.pipelines import picture


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
