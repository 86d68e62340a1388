"""A pendulum in the sun, and its shadow: pictures whose factors cause one another.

The data set that CausalVAE was shown with (Yang et al. 2021, section 6.1), drawn anew. The angle of
the pendulum and the height of the sun are free; where the shadow lies, and how long it is, follows
from both. Picture i is a function of (seed, i) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from calotype.data.reading.transforms import to_tensor

ANGLES = 5.0, 55.0
"""Degrees by which the pendulum swings out to the right."""
LIGHTS = 5.0, 35.0
"""Degrees between the sun, as the pivot sees it, and straight up; to the right too, so that the
longer a shadow, the larger either angle."""
PIVOT = 0.45, 0.35
"""Where it hangs; (x, y) here as fractions of the image's side, y points down."""
LENGTH = 0.38
"""Of the pendulum."""
SUN, GROUND = 0.08, 0.9
"""Heights y of the sun and of what the shadow falls on."""
SKY, BALL, ROD, LIGHT, SHADOW = (
    np.array(rgb, np.float32)
    for rgb in ((205, 225, 245), (200, 40, 40), (60, 60, 60), (255, 190, 0), (40, 50, 90))
)
"""sRGB."""


@dataclass(frozen=True)
class Pendulum:
    """A procedural set of pendulums in the sun, with their true factors.

    Raises:
        ValueError: a number is not possible.
    """

    size: int = 32
    """Side of the images, in pixels; 16 or more."""
    seed: int = 0
    """Picture i is a function of this and i alone."""
    count: int = 10_000
    """Number of pictures in the set."""

    def __post_init__(self) -> None:
        for name, least in (("size", 16), ("seed", 0), ("count", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"data.{name}: {value} is not possible; choose {least} or more")

    def build(self) -> "PendulumDataset":
        """Make the data set."""
        return PendulumDataset(self)


class PendulumDataset(Dataset):
    """A map-style set of `{"image": PIL.Image, "caption": str, "factors": float32 [4]}`; also gives
    batches of tensors.

    Factors are those of `names`, each less its mean over all pictures, in its standard deviations.
    """

    names = ("angle", "light", "length", "position")
    """Of the factors, causes first: the pendulum's angle, the sun's, the shadow's length and where
    its middle is."""

    def __init__(self, spec: Pendulum) -> None:
        self.spec = spec
        self.mean, self.deviation = _statistics()

    def __len__(self) -> int:
        return self.spec.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self._draw([index])
        return {"image": Image.fromarray(batch[0][0]), "caption": batch[1][0],
                "factors": batch[2][0]}  # fmt: skip

    def batch(self, indices: Sequence[int], keys: Sequence[int] = ()) -> dict[str, Any]:
        """Draw many pictures at once.

        Args:
            indices: Which.
            keys: Seeds of augmentations; a drawing has none.

        Returns:
            `{"image": float32 [b, 3, size, size] in [-1, 1], "caption": b strings,
            "factors": float32 [b, 4]}`.
        """
        pixels, captions, factors = self._draw(indices)
        return {"image": to_tensor(pixels), "caption": captions, "factors": factors}

    def _draw(
        self, indices: Sequence[int]
    ) -> tuple[UInt8[np.ndarray, "b H W 3"], list[str], Float32[Tensor, "b 4"]]:
        causes = np.stack([self._causes(index) for index in indices])
        captions = [f"a pendulum at {a:.0f} degrees, the sun at {s:.0f} degrees" for a, s in causes]
        factors = (factors_of(causes) - self.mean) / self.deviation
        return draw(causes, self.spec.size), captions, torch.from_numpy(factors)

    def _causes(self, index: int) -> Float32[np.ndarray, "2"]:
        if not 0 <= index < self.spec.count:
            raise IndexError(f"picture {index} of {self.spec.count}")
        rng = np.random.default_rng((self.spec.seed, index))
        low, high = np.transpose([ANGLES, LIGHTS])
        return rng.uniform(low, high).astype(np.float32)


def factors_of(causes: Float32[np.ndarray, "b 2"]) -> Float32[np.ndarray, "b 4"]:
    """Angle and light, in degrees, and the shadow's length and middle, as fractions of the side."""
    left, right = _shadow(causes)
    return np.column_stack([causes, right - left, (left + right) / 2]).astype(np.float32)


def draw(causes: Float32[np.ndarray, "b 2"], size: int) -> UInt8[np.ndarray, "b {size} {size} 3"]:
    """Draw pendulums by their angles and lights, in degrees; sRGB in 0..255, antialiased."""
    pixels = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x, y = pixels[None, None, :], pixels[None, :, None]
    ball, sun = _ball(causes), _sun(causes)
    pivot = np.broadcast_to(np.array(PIVOT, np.float32), ball.shape)
    shadow = [np.column_stack([edge, np.full(len(edge), GROUND)]) for edge in _shadow(causes)]
    strokes = ((SHADOW, *shadow, 0.035), (ROD, pivot, ball, 0.02), (BALL, ball, ball, 0.085),
               (LIGHT, sun, sun, 0.07))  # fmt: skip
    canvas = np.broadcast_to(SKY, (len(causes), size, size, 3)).copy()
    for colour, start, end, radius in strokes:
        inside = np.clip(0.5 + size * (radius - _distance(x, y, start, end)), 0, 1)[..., None]
        canvas += inside * (colour - canvas)
    return np.rint(canvas).astype(np.uint8)


def _ball(causes: np.ndarray) -> np.ndarray:
    angle = np.radians(causes[:, 0])
    return np.array(PIVOT) + LENGTH * np.column_stack([np.sin(angle), np.cos(angle)])


def _sun(causes: np.ndarray) -> np.ndarray:
    across = PIVOT[0] + np.tan(np.radians(causes[:, 1])) * (PIVOT[1] - SUN)
    return np.column_stack([across, np.full(len(causes), SUN)])


def _shadow(causes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the ground is hit by the rays through pivot and ball, which are parallel."""
    slope, ball = np.tan(np.radians(causes[:, 1])), _ball(causes)
    return PIVOT[0] - slope * (GROUND - PIVOT[1]), ball[:, 0] - slope * (GROUND - ball[:, 1])


def _distance(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """From each pixel to a stroke, as fractions of the side."""
    start, along = start[:, :, None, None], (end - start)[:, :, None, None]
    dx, dy = x - start[:, 0], y - start[:, 1]
    length = np.maximum((along**2).sum(1), 1e-12)
    part = np.clip((dx * along[:, 0] + dy * along[:, 1]) / length, 0, 1)
    return np.hypot(dx - part * along[:, 0], dy - part * along[:, 1])


def _statistics() -> tuple[Float32[np.ndarray, "4"], Float32[np.ndarray, "4"]]:
    """Mean and standard deviation of the factors over all angles and lights."""
    grid = np.meshgrid(np.linspace(*ANGLES, 101), np.linspace(*LIGHTS, 101))
    every = factors_of(np.column_stack([each.ravel() for each in grid]).astype(np.float32))
    return every.mean(0), every.std(0)
