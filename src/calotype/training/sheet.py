"""Small images in one picture, so large that one can see them, each over its caption."""

import textwrap
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from calotype.lazy import torchvision
from calotype.training.images import visible

LEGIBLE = 128
"""Pixels a side."""


def framed(batches: Sequence[Float[Tensor, "_ c _ _"]]) -> Float[Tensor, "n c side side"]:
    """Batches of images of [-1, 1] and of any shapes as one of squares, each image in the middle of
    white.
    """
    side = max(max(images.shape[-2:]) for images in batches)
    squares = []
    for images in batches:
        down, along = (side - length for length in images.shape[-2:])
        margins = (along // 2, along - along // 2, down // 2, down - down // 2)
        squares.append(functional.pad(images, margins, value=1.0))
    return torch.cat(squares)


def draw_sheet(
    images: Float[Tensor, "n c H W"], captions: Sequence[str] = (), columns: int = 8,
    side: int = LEGIBLE,
) -> Image.Image:  # fmt: skip
    """Images of [-1, 1], each over its caption if there are any; `side` pixels a column. Alpha lies
    over a checkerboard.
    """
    font, gap = ImageFont.load_default(12), 8
    below = 76 if any(captions) else gap
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = columns * (side + gap) + gap, rows * (side + below) + gap
    sheet = Image.new("RGB", size, "white")
    ink = ImageDraw.Draw(sheet)
    pixels = visible(images).add(1).mul(127.5).round().byte().cpu()
    for i, image in enumerate(pixels):
        x = gap + i % columns * (side + gap)
        y = gap + i // columns * (side + below)
        shown = torchvision.transforms.v2.functional.to_pil_image(image)
        sheet.paste(shown.resize((side, side), Image.Resampling.NEAREST), (x, y))
        lines = textwrap.wrap(captions[i], side // 6)[:5] if captions else []
        ink.multiline_text((x, y + side + 2), "\n".join(lines), "black", font, spacing=1)
    return sheet
