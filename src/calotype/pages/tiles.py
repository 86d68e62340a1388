"""The single images of a run's newest sample grid."""

import io
import re
from pathlib import Path

from PIL import Image

GAP = 2
"""Pixels between the images of a grid, and around it: torchvision's."""


def newest(samples: Path) -> Path | None:
    """The grid of the latest step in a run's `samples/`; None: there is none."""
    grids = [path for path in samples.glob("*.png") if re.fullmatch(r"\d{7}", path.stem)]
    return max(grids, default=None)


def tiles(grid: Path, size: int, count: int) -> list[bytes]:
    """The first `count` images, `size` pixels a side, of a grid as `save_grid` writes it, each as a
    PNG, row by row. One image alone stands without a gap. A grid that is just being written has
    none.
    """
    try:
        with Image.open(grid) as opened:
            whole = opened.convert("RGB")
    except (OSError, SyntaxError):  # Pillow says either of a file that is cut short
        return []
    gap = 0 if whole.size == (size, size) else GAP
    step = size + GAP
    corners = [
        (x, y) for y in range(gap, whole.height, step) for x in range(gap, whole.width, step)
    ]
    return [_png(whole.crop((x, y, x + size, y + size))) for x, y in corners[:count]]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
