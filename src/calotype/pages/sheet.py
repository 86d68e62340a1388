"""Images over their captions, as one picture, small ones enlarged."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from calotype.training.sheet import LEGIBLE, draw_sheet

VISIBLE = 256
"""Pixels a side of an image that one can look at."""


def enlarged(size: int) -> int:
    """Pixels a side of an image of `size` as it is shown: the least multiple that one can see."""
    return size * -(-VISIBLE // size)


def write_sheet(
    path: Path, images: Float[Tensor, "n c H W"], captions: Sequence[str], columns: int = 8,
    side: int = LEGIBLE,
) -> None:  # fmt: skip
    """Write images of [-1, 1], each over its caption, to one picture of `columns` or fewer; each is
    `side` pixels wide, by nearest neighbours; alpha lies over a checkerboard.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(images, captions, columns, side).save(path)
