"""Parts of pictures, and what becomes of them when they are resized."""

import numpy as np
from PIL import Image

BICUBIC = Image.Resampling.BICUBIC
"""Pillow's, which filters by the scale and so does not alias."""
SPARE = 2.0
"""Pixels that a reduced picture keeps for one of the crop, at least, along each side."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part, in pixels of the whole picture."""


def reducible(side: float | int, size: int) -> int:
    """By which power of two, 8 at most, a picture may be smaller of which `side` pixels become
    `size`.
    """
    return next((by for by in (8, 4, 2) if side / by >= SPARE * size), 1)


def resized(
    image: Image.Image, box: Box, shape: tuple[int, int], reduction: int = 1
) -> Image.Image:
    """Resize a part of a picture, which is decoded smaller by `reduction`, to a shape."""
    left, top, right, bottom = (edge / reduction for edge in box) if reduction > 1 else box
    return image.resize(shape, BICUBIC, (left, top, right, bottom))


def placed(
    size: tuple[int, int], shape: tuple[int, int], scale: float, rng: np.random.Generator
) -> Box:
    """A part of a picture at a random whole pixel of the resized one.

    Args:
        size: Width and height of the picture.
        shape: Of what the part becomes.
        scale: Pixels of the picture to each of the resized one.
        rng: Draws the place.
    """
    # Rounding may put a side, and with it the far edge, an ulp beyond.
    width, height = (
        min(scale * side, float(whole)) for side, whole in zip(shape, size, strict=True)
    )
    left, top = (
        scale * int(rng.integers(max(round(whole / scale) - side, 0) + 1))
        for whole, side in zip(size, shape, strict=True)
    )
    left, top = min(left, size[0] - width), min(top, size[1] - height)
    return left, top, left + width, top + height
