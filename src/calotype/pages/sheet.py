"""Images over their captions, as one picture."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from calotype.training.sheet import LEGIBLE, draw_sheet


def write_sheet(
    path: Path, images: Float[Tensor, "n 3 H W"], captions: Sequence[str], columns: int = 8,
    side: int = LEGIBLE,
) -> None:  # fmt: skip
    """Write images of [-1, 1], each over its caption, to one PNG; `side` pixels a column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(images, captions, columns, side).save(path)
