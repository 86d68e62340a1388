"""Handwritten digits that come with scikit-learn: the smallest real pictures there are."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from calotype.data.pictures import Pictures
from calotype.data.reading.records import Reader, Record
from calotype.lazy import sklearn

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
EVERY = 5
"""Which of them are the test's."""


@dataclass(frozen=True)
class Digits:
    """1,797 grey digits of 8 pixels a side and 17 levels (Alpaydin & Kaynak 1998), captioned by
    their names, such as "three".

    They prove identities and restoration, and nothing of representations: raw pixels tell them
    apart as well as any latent.
    """

    split: Literal["train", "test", "all"] = "train"
    """Of the 1,797 every fifth is the test's, 360; the others are there to be trained on."""

    size = 8
    """Pixels a side."""

    def build(self) -> Pictures:
        """List them; their names are their numbers in scikit-learn's set."""
        pixels, labels = digits()
        numbers = np.arange(len(labels))
        if self.split != "all":
            numbers = numbers[(numbers % EVERY == 0) == (self.split == "test")]
        records = [Record(Image.fromarray(pixels[i]), f"digit-{i}", NAMES[labels[i]])
                   for i in numbers]  # fmt: skip
        return Pictures(records, Reader("stop", "Digits"), lambda: f"digits {self.split}")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All of them: uint8 [1797, 8, 8] and their labels."""
    found: Any = sklearn.datasets.load_digits()
    levels = np.asarray(found.images) * (255 / 16)
    return levels.round().astype(np.uint8), np.asarray(found.target)
