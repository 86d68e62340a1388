"""Shapes with true factors, each combination once, as dSprites is made (Matthey et al. 2017): small
enough to measure on two cores what disentangles. Nothing to download.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from torch.utils.data import Dataset

from calotype.data.drawn.checks import check_at_least, check_names
from calotype.data.drawn.shapes import SHAPES, coverage
from calotype.data.reading.transforms import to_tensor

FACTORS = ("shape", "scale", "x", "y")
"""What tells one picture from another, in the order of `factors`."""
SMALLEST, LARGEST = 0.125, 0.25
"""Radius of a shape as a fraction of the image's side."""


@dataclass(frozen=True)
class Nuisance:
    """What a picture shows besides its factors, drawn for each by itself: no probe of pixels finds
    the factors through it.
    """

    polarity: bool = True
    """As often black on white as white on black."""
    plane: float = 0.3
    """Largest rise of the ground over half of the image's side, in any direction, of black to
    white as 1."""
    noise: float = 0.05
    """Standard deviation of normal noise in each pixel, of black to white as 1."""

    def __post_init__(self) -> None:
        for name in ("plane", "noise"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"data.nuisance.{name} is {value}: it lies in [0, 1]")


@dataclass(frozen=True)
class Shapes:
    """White shapes on black: every shape of every scale in every place.

    Raises:
        ValueError: a field has a value that cannot be drawn.
    """

    size: int = 16
    """Side of the images, in pixels; 16 or more."""
    shapes: tuple[str, ...] = ("square", "circle", "heart")
    """From circle, square, triangle, cross, diamond, ring, star, heart."""
    scales: int = 4
    """Radii, evenly from an eighth of the side to a quarter."""
    places: int = 8
    """Along each axis, evenly; the largest shape lies within the picture in all."""
    copies: int = 1
    """Pictures of each combination; they differ in the nuisance alone."""
    nuisance: Nuisance | None = None
    """What they show besides; None: nothing."""
    seed: int = 0
    """Of the nuisance."""

    def __post_init__(self) -> None:
        for name, least in (("size", 16), ("scales", 1), ("places", 1), ("copies", 1), ("seed", 0)):
            check_at_least(name, getattr(self, name), least)
        check_names("shapes", self.shapes, SHAPES)

    @property
    def levels(self) -> tuple[int, ...]:
        """How many values each factor has."""
        return len(self.shapes), self.scales, self.places, self.places

    def build(self) -> "ShapeDataset":
        """Make the data set."""
        return ShapeDataset(self)


class ShapeDataset(Dataset):
    """A map-style set of `{"image": PIL.Image, "caption": str, "factors": float32 [4]}`, factors
    numbered from 0; also gives batches of tensors.
    """

    names = FACTORS

    def __init__(self, spec: Shapes) -> None:
        self.spec = spec

    def __len__(self) -> int:
        return prod(self.spec.levels) * self.spec.copies

    def __getitem__(self, index: int) -> dict[str, Any]:
        levels = self._levels([index])
        return {"image": Image.fromarray(self._draw([index], levels)[0]),
                "caption": self._caption(levels[0]),
                "factors": torch.from_numpy(levels[0]).float()}  # fmt: skip

    def batch(self, indices: Sequence[int], keys: Sequence[int] = ()) -> dict[str, Any]:
        """Draw many at once.

        Args:
            indices: Which.
            keys: Seeds of augmentations; there are none.

        Returns:
            `{"image": float32 [b, 3, size, size] in [-1, 1], "caption": b strings, "factors":
            float32 [b, 4]}`.
        """
        levels = self._levels(indices)
        return {"image": to_tensor(self._draw(indices, levels)),
                "caption": [self._caption(each) for each in levels],
                "factors": torch.from_numpy(levels).float()}  # fmt: skip

    def _levels(self, indices: Sequence[int]) -> Int64[np.ndarray, "b 4"]:
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"shape {index} of {len(self)}")
        combination = np.asarray(indices) % prod(self.spec.levels)
        return np.stack(np.unravel_index(combination, self.spec.levels), 1).astype(np.int64)

    def _caption(self, levels: Int64[np.ndarray, " 4"]) -> str:
        shape, scale, x, y = levels.tolist()
        return f"a {self.spec.shapes[shape]} of scale {scale} at {x}, {y}"

    def _draw(
        self, indices: Sequence[int], levels: Int64[np.ndarray, "b 4"]
    ) -> UInt8[np.ndarray, "b H W 3"]:
        spec = self.spec
        radius = np.linspace(SMALLEST, LARGEST, spec.scales)[levels[:, 1]]
        place = np.linspace(LARGEST, 1 - LARGEST, spec.places)[levels[:, 2:]]
        layout = np.column_stack([place, radius]).astype(np.float32)
        drawn = coverage([spec.shapes[shape] for shape in levels[:, 0]], layout, spec.size)
        if spec.nuisance is not None:
            shown = zip(drawn, indices, strict=True)
            drawn = np.stack([_spoilt(mask, spec.nuisance, (spec.seed, i)) for mask, i in shown])
        pixels = np.rint(255 * drawn).astype(np.uint8)
        return np.repeat(pixels[..., None], 3, axis=3)


def _spoilt(
    mask: Float32[np.ndarray, "H W"], nuisance: Nuisance, seed: tuple[int, int]
) -> Float32[np.ndarray, "H W"]:
    """With its ground, its contrast and noise."""
    rng = np.random.default_rng(seed)
    across = np.linspace(-1, 1, len(mask))
    angle, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0, nuisance.plane)
    plane = rise * (np.cos(angle) * across + np.sin(angle) * across[:, None]) / np.sqrt(2)
    shown = 1 - mask if nuisance.polarity and rng.random() < 0.5 else mask
    noise = rng.normal(0, nuisance.noise, mask.shape)
    return np.clip(shown + plane + noise, 0, 1).astype(np.float32)
