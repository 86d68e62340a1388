"""From a picture of any size to a tensor of one size. All chance comes from the given generator."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageOps
from torch import Tensor

from calotype.data.pictures import Example
from calotype.data.scenes import to_tensor

BICUBIC = Image.Resampling.BICUBIC
"""Pillow's, which filters by the scale and so does not alias."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of random area and shape, resized to a square (Szegedy et al. 2015)."""

    size: int = 256
    """Pixels a side."""
    scale: tuple[float, float] = (0.8, 1.0)
    """Least and greatest area, as fractions of the picture's."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width / height, drawn log-uniformly."""

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
    """A square at a random place of the picture resized by its short side (Rombach et al. 2022)."""

    size: int = 256
    """Pixels a side."""
    resize: int | None = None
    """Pixels of the short side before the crop; None: as the crop."""

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize: {self.resize} is less than size {self.size}; raise it")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Resize and crop in one step, at a whole pixel of the resized picture."""
        step = min(image.size) / (self.resize or self.size)  # source pixels to a resized pixel
        side = self.size * step
        left, top = (
            step * rng.integers(max(round(length / step) - self.size, 0) + 1)
            for length in image.size
        )
        left, top = min(left, image.width - side), min(top, image.height - side)
        return image.resize((self.size, self.size), BICUBIC, (left, top, left + side, top + side))


@dataclass(frozen=True)
class CenterCrop:
    """The central square, resized."""

    size: int = 256
    """Pixels a side."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Crop and resize; the generator is not used."""
        return ImageOps.fit(image, (self.size, self.size), BICUBIC)


Crop = RandomResizedCrop | RandomCrop | CenterCrop


@dataclass(frozen=True)
class Flip:
    """Mirror left and right. Wrong where captions tell left from right."""

    probability: float = 0.5

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Mirror or not."""
        return ImageOps.mirror(image) if rng.random() < self.probability else image


@dataclass(frozen=True)
class Transform:
    """How an example becomes a sample: a crop, perhaps a flip, then a tensor."""

    crop: Crop = CenterCrop()
    flip: Flip | None = None

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, Any]:
        """Give `{"image": float32 [3, size, size] in [-1, 1], "caption": str}`."""
        image = self.crop(example["image"], rng)
        image = self.flip(image, rng) if self.flip else image
        return {**example, "image": pixels(image)}


def pixels(image: Image.Image) -> Float32[Tensor, "3 H W"]:
    """Turn an RGB picture into a tensor in [-1, 1]."""
    return to_tensor(np.asarray(image)[None])[0]


def as_is(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Only turn a picture into a tensor."""
    image = example.get("image")
    return {**example, "image": pixels(image)} if isinstance(image, Image.Image) else example
