"""From a picture of any size to a tensor of one size. All chance comes from the given generator."""

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from calotype.data.bucketed import SHAPE
from calotype.data.buckets import Buckets, Shape, window
from calotype.data.pictures import Example

BICUBIC = Image.Resampling.BICUBIC
"""Pillow's, which filters by the scale and so does not alias."""


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"transform.crop.size is {size}: it must be at least 1")


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of random area and shape, resized to a square (Szegedy et al. 2015).

    Raises:
        ValueError: a number is not possible.
    """

    size: int = 256
    """Pixels a side."""
    scale: tuple[float, float] = (0.8, 1.0)
    """Least and greatest area, as fractions of the picture's."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width / height, drawn log-uniformly."""

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"transform.crop.scale is {self.scale}: give the least and the greatest, in (0, 1]"
            )
        if not 0 < self.ratio[0] <= self.ratio[1] < inf:
            raise ValueError(
                f"transform.crop.ratio is {self.ratio}: give the least and the greatest, above 0"
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Crop and resize; falls back to the central part when ten draws do not fit."""
        for _ in range(10):
            area = image.width * image.height * rng.uniform(*self.scale)
            ratio = np.exp(rng.uniform(*np.log(self.ratio)))
            width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < width <= image.width and 0 < height <= image.height:
                left = int(rng.integers(image.width - width + 1))
                top = int(rng.integers(image.height - height + 1))
                box = left, top, left + width, top + height
                return image.resize((self.size, self.size), BICUBIC, box)
        return CenterCrop(self.size)(image, rng)


@dataclass(frozen=True)
class RandomCrop:
    """A square at a random place of the picture resized by its short side (Rombach et al. 2022).

    Raises:
        ValueError: a number is not possible.
    """

    size: int = 256
    """Pixels a side."""
    resize: int | None = None
    """Pixels of the short side before the crop; None: as the crop."""

    def __post_init__(self) -> None:
        _check_size(self.size)
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"transform.crop.resize is {self.resize}: it must be at least the size, {self.size}"
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Resize and crop in one step, at a whole pixel of the resized picture."""
        scale = min(image.size) / (self.resize or self.size)
        shape = self.size, self.size
        return image.resize(shape, BICUBIC, window(image.size, shape, scale, rng))


@dataclass(frozen=True)
class CenterCrop:
    """The central square, resized.

    Raises:
        ValueError: the size is not possible.
    """

    size: int = 256
    """Pixels a side."""

    def __post_init__(self) -> None:
        _check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Crop and resize; the generator is not used."""
        return ImageOps.fit(image, (self.size, self.size), BICUBIC)


Crop = RandomResizedCrop | RandomCrop | CenterCrop | Buckets


@dataclass(frozen=True)
class Flip:
    """Mirror left and right. Wrong where captions tell left from right.

    Raises:
        ValueError: the probability is none.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"transform.flip.probability is {self.probability}: it must lie in [0, 1]"
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Mirror or not."""
        return ImageOps.mirror(image) if rng.random() < self.probability else image


@dataclass(frozen=True)
class Transform:
    """How an example becomes a sample: a crop, perhaps a flip, then a tensor."""

    crop: Crop = CenterCrop()
    flip: Flip | None = None

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, Any]:
        """Give `{"image": float32 [3, H, W] in [-1, 1], "caption": str}`."""
        sample: dict[str, Any] = dict(example)
        image, shape = sample["image"], sample.pop(SHAPE, None)
        if shape is not None and isinstance(self.crop, Buckets):
            image = self.crop.cover(image, shape, rng)
        else:
            image = self.crop(image, rng)
        image = self.flip(image, rng) if self.flip else image
        return {**sample, "image": pixels(image)}

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All that its images may have."""
        if isinstance(self.crop, Buckets):
            return self.crop.shapes
        return (Shape(self.crop.size, self.crop.size),)


def to_tensor(pixels: UInt8[np.ndarray, "b H W 3"]) -> Float32[Tensor, "b 3 H W"]:
    """Turn sRGB in 0..255 into [-1, 1], channels first."""
    planes = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    # Not by torch, whose threads would get into each other's way where several decode.
    planes /= np.float32(127.5)
    planes -= np.float32(1)
    return torch.from_numpy(planes)


def eight_bits(images: Float[Tensor, "*n 3 H W"]) -> UInt8[Tensor, "*n 3 H W"]:
    """Images of [-1, 1] in the levels of a saved picture; what is outside is clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def pixels(image: Image.Image) -> Float32[Tensor, "3 H W"]:
    """Turn an RGB picture into a tensor in [-1, 1]."""
    return to_tensor(np.asarray(image)[None])[0]


def as_is(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Only turn a picture into a tensor."""
    image = example.get("image")
    return {**example, "image": pixels(image)} if isinstance(image, Image.Image) else example
