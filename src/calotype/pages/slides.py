"""A run's sample grids over time, so few and so small that a page can hold them."""

import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from calotype.pages.render import data_url

MOST_SLIDES = 20
"""Of a page, and the newest besides."""
LARGEST = 1100
"""Pixels of a slide's longer side."""


@dataclass(frozen=True)
class Slide:
    """A grid of samples as a page shows it."""

    step: int
    source: str
    """A data URL."""


class Slides:
    """Those of a run's `samples/`, each made once.

    Args:
        samples: The folder; there may be none yet.
    """

    def __init__(self, samples: Path) -> None:
        self.samples = samples
        self._made: dict[Path, Slide] = {}

    def look(self, until: int) -> list[Slide]:
        """Some of those from all over the time up to a step, oldest first: every one, every second,
        every fourth and so on, so that what was once shown tends to stay, and the newest.
        """
        steps = sorted(step for path in self.samples.glob("*.png")
                       if re.fullmatch(r"\d{7,}", path.stem)
                       and (step := int(path.stem)) <= until)  # fmt: skip
        each = 1
        while len(steps) > MOST_SLIDES * each:
            each *= 2
        chosen = [*steps[:-1:each], *steps[-1:]]
        shown = {path: self._slide(path, step) for step in chosen
                 if (path := self._picture(step)).exists()}  # fmt: skip
        self._made = {path: slide for path, slide in shown.items() if slide}
        return list(self._made.values())

    def _picture(self, step: int) -> Path:
        """The sheet, which one can see and read, or the grid where it is as large."""
        sheet = self.samples / f"{step:07d}-sheet.png"
        return sheet if sheet.exists() else self.samples / f"{step:07d}.png"

    def _slide(self, path: Path, step: int) -> Slide | None:
        if path in self._made:
            return self._made[path]
        try:
            return Slide(step, shrunk(path))
        except (OSError, SyntaxError):  # Pillow says either of a file that is cut short
            return None


def shrunk(picture: Path) -> str:
    """A picture as a data URL, no larger than a page can hold."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return data_url(buffer.getvalue(), "jpeg")
