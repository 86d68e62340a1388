"""The page of what would be trained on: figures, pictures, and those that look alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from calotype.pages.render import data_url, render
from calotype.training.files import write_text

MOST_BARS = 16


@dataclass(frozen=True)
class Shown:
    """A picture on the page."""

    name: str
    text: str
    """What is written under it."""
    picture: bytes
    """Encoded, as a PNG or a JPEG."""

    @property
    def source(self) -> str:
        """Of its `<img>`."""
        return data_url(self.picture, "png" if self.picture.startswith(b"\x89PNG") else "jpeg")


@dataclass(frozen=True)
class Bars:
    """How many pictures there are in each of some equal ranges of a figure."""

    title: str
    ranges: Sequence[str]
    counts: Sequence[int]

    @classmethod
    def of(cls, title: str, values: Sequence[int] | Sequence[float]) -> "Bars":
        """Count them: whole numbers by themselves where there are few different ones."""
        different = sorted(set(values))
        if len(different) <= MOST_BARS:
            counts = [sum(value == each for value in values) for each in different]
            return cls(
                title, [f"{each:.3g}" if each % 1 else f"{each:.0f}" for each in different], counts
            )
        counts, edges = np.histogram(values, MOST_BARS)
        said = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        return cls(title, said, counts.tolist())

    @property
    def rows(self) -> list[tuple[str, int, str]]:
        """Each range, its count, and the length of its bar in percent of the longest."""
        most = max(self.counts)
        return [(said, count, f"{100 * count / most:.1f}")
                for said, count in zip(self.ranges, self.counts, strict=True)]  # fmt: skip


@dataclass(frozen=True)
class Looked:
    """What the page shows."""

    source: str
    """What was looked at."""
    rows: Sequence[tuple[str, str]]
    """What was found: a word, and a line."""
    warnings: Sequence[str]
    """What may be wrong, and what would mend it."""
    faults: Sequence[str]
    """Every picture that cannot be read, and why."""
    bars: Sequence[Bars]
    pairs: Sequence[tuple[Shown, Shown]]
    """Pictures that look alike."""
    samples: Sequence[Shown]
    """Pictures from all over, with their captions."""


def write_data(path: Path, looked: Looked) -> None:
    """Write the page to one HTML file, in one step."""
    write_text(path, render("data.html", **vars(looked)))
