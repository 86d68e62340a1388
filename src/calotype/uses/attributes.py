"""Directions in latents along which a picture gets what some have and others have not."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.lazy import sklearn

LEAST, MOST = 0.02, 0.5
"""Parts of captions in which a word stands that is taken for an attribute."""
STEPS = 1000
"""Of the classifier's optimiser."""


def direction(latents: Float[Tensor, "n ..."], has: Bool[Tensor, " n"]) -> Float[Tensor, "..."]:
    """From the mean of those that have it not to the mean of those that have it (Larsen et al.
    2016, section 4.2): what is added to a latent, once or by parts.

    Raises:
        ValueError: all have it, or none.
    """
    if has.all() or not has.any():
        raise ValueError(f"{int(has.sum())} of {len(has)} have it: both kinds are needed")
    return latents[has].mean(0) - latents[~has].mean(0)


def random_like(way: Float[Tensor, "..."], seed: int = 0) -> Float[Tensor, "..."]:
    """The control: any direction, as long."""
    drawn = torch.randn(way.shape, generator=torch.Generator().manual_seed(seed))
    return (drawn / drawn.norm() * way.norm().cpu()).to(way)


def words(captions: Sequence[str], count: int) -> list[str]:
    """Words that tell pictures apart, the commonest first: not those that are in more than half of
    the captions or in hardly any, nor numbers.
    """
    within = Counter(word for caption in captions for word in _words(caption))
    least, most = max(2, LEAST * len(captions)), MOST * len(captions)
    telling = [word for word, n in sorted(within.items(), key=lambda each: (-each[1], each[0]))
               if least <= n <= most and not word.isdecimal()]  # fmt: skip
    return telling[:count]


def having(captions: Sequence[str], word: str) -> Bool[Tensor, " n"]:
    """Which captions have a word.

    Raises:
        ValueError: all have it, or none.
    """
    found = torch.tensor([word.lower() in _words(caption) for caption in captions])
    if found.all() or not found.any():
        some = ", ".join(words(captions, 8))
        raise ValueError(
            f"the word {word!r} is in {int(found.sum())} of {len(captions)} captions, and some "
            f"must have it and others not: choose from words such as {some or 'there are none'}"
        )
    return found


def upper(values: Float[Tensor, " n"], factor: int) -> Bool[Tensor, " n"]:
    """Which values of a true factor lie in the upper half of their range.

    Raises:
        ValueError: all are the same.
    """
    low, high = values.aminmax()
    if low == high:
        raise ValueError(f"--factor {factor}: all pictures have the same value of it: leave it out")
    return values > (low + high) / 2


def _words(caption: str) -> set[str]:
    return set(re.findall(r"\w+", caption.lower()))


@dataclass(frozen=True)
class Edited:
    """Parts of 1, of pictures that have an attribute not: what a classifier says of them."""

    before: float
    """As they are decoded."""
    after: float
    """Once the direction is added."""
    control: float
    """Once a random one, as long, is."""


class PixelJudge:
    """A logistic classifier of small copies of pictures, that knows nothing of latents.

    Args:
        images: [n, c, H, W] in [-1, 1].
        has: Which of them have the attribute.
        side: Pixels of the copies.
    """

    def __init__(
        self, images: Float[Tensor, "n c H W"], has: Bool[Tensor, " n"], side: int = 16
    ) -> None:
        self.side = side
        scaled = sklearn.preprocessing.StandardScaler()
        reader = sklearn.linear_model.LogisticRegression(
            C=0.01, max_iter=STEPS, class_weight="balanced"
        )
        self.reader = sklearn.pipeline.make_pipeline(scaled, reader)
        self.reader.fit(self._small(images), has.numpy())

    def part(self, images: Float[Tensor, "n c H W"]) -> float:
        """Of these, those that it says have it."""
        return float(self.reader.predict(self._small(images)).mean())

    def _small(self, images: Tensor) -> np.ndarray:
        small = torch.nn.functional.adaptive_avg_pool2d(images.float().clamp(-1, 1), self.side)
        return small.flatten(1).numpy()
