"""From a picture of any size to a tensor of one size. All chance comes from the given generator."""

from dataclasses import dataclass
from math import inf
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from calotype.data.aspect.boxes import Box, placed, reducible, resized
from calotype.data.aspect.bucketed import SHAPE
from calotype.data.aspect.buckets import Buckets, Shape
from calotype.data.reading.captions import CaptionChoice, one_caption
from calotype.data.reading.colour import TO_SRGB, Colour
from calotype.data.reading.images import Decoding, read_image
from calotype.data.reading.records import Example
from calotype.training.images import Mode, scaled

FRAME = "frame"
"""Of a sample: how large its picture was, and where it was cropped."""


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

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Draw the part; it falls back to the central one when ten draws do not fit."""
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = np.exp(rng.uniform(*np.log(self.ratio)))
            wide, high = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < wide <= width and 0 < high <= height:
                left = float(rng.integers(width - wide + 1))
                top = float(rng.integers(height - high + 1))
                return left, top, left + wide, top + high
        return CenterCrop(self.size).box(width, height, rng)

    def reduction(self, width: int, height: int) -> int:
        """By how much such a picture may be decoded smaller."""
        area, (least, greatest) = width * height * self.scale[0], self.ratio
        side = min((area * least) ** 0.5, (area / greatest) ** 0.5, width, height)
        return reducible(side, self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Crop and resize."""
        return resized(image, self.box(*image.size, rng), (self.size, self.size))


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

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Draw the part, at a whole pixel of the resized picture."""
        scale = min(width, height) / (self.resize or self.size)
        return placed((width, height), (self.size, self.size), scale, rng)

    def reduction(self, width: int, height: int) -> int:
        """By how much such a picture may be decoded smaller."""
        return reducible(min(width, height), self.resize or self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Resize and crop in one step."""
        return resized(image, self.box(*image.size, rng), (self.size, self.size))


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

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Find the part; the generator is not used."""
        side = float(min(width, height))
        left, top = (width - side) * 0.5, (height - side) * 0.5
        return left, top, left + side, top + side

    def reduction(self, width: int, height: int) -> int:
        """By how much such a picture may be decoded smaller."""
        return reducible(min(width, height), self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Crop and resize; the generator is not used."""
        return resized(image, self.box(*image.size, rng), (self.size, self.size))


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
    """How an example becomes a sample: a crop, perhaps a flip, then a tensor of 8 bits; and one
    caption.
    """

    crop: Crop = CenterCrop()
    flip: Flip | None = None
    mode: Mode = "RGB"
    """Channels of the images: L is grey, RGB colours, RGBA colours and alpha. What is transparent
    is white in the first two."""
    colour: Colour = TO_SRGB
    """What becomes of the colours of a picture with a profile."""
    caption: CaptionChoice = "first"
    """Of several captions of a picture: the first, or a random one, another each epoch."""

    @property
    def decoding(self) -> Decoding:
        """How pictures are decoded for it."""
        return Decoding(self.mode, self.colour, self.crop.reduction)

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, Any]:
        """Give `{"image": uint8 [c, H, W], "caption": str}`; colours beside alpha are over white.
        `calotype.training.images.scaled` brings images to [-1, 1], on the device.
        """
        sample = self.framed(example, rng)
        del sample[FRAME]
        return sample

    def framed(self, example: Example, rng: np.random.Generator) -> dict[str, Any]:
        """The same, and as "frame" what the image is of its picture (int32 [5]): height and width
        of the picture in its own pixels, and how many of the resized picture's were cropped away
        above, to the left and to the right of the image.
        """
        sample = cast(dict[str, Any], {**example})
        reduction, shape = sample.pop("reduction", 1), sample.pop(SHAPE, None)
        width, height = sample["size"] if reduction > 1 else sample["image"].size
        if isinstance(self.crop, Buckets):
            shape = shape or self.crop.nearest(width, height)
            box = self.crop.part((width, height), shape, rng)
        else:
            shape, box = (self.crop.size, self.crop.size), self.crop.box(width, height, rng)
        image = resized(in_mode(sample["image"], self.mode), box, shape, reduction)
        frame, upright = _frame((width, height), box, shape), image
        image = self.flip(image, rng) if self.flip else image
        found = {**one_caption(sample, self.caption, rng), "image": levels(image)}
        return {**found, FRAME: frame if image is upright else mirrored(frame)}

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All that its images may have."""
        if isinstance(self.crop, Buckets):
            return self.crop.shapes
        return (Shape(self.crop.size, self.crop.size),)


def _frame(size: tuple[int, int], box: Box, shape: tuple[int, int]) -> Int32[Tensor, "5"]:
    """As of `Transform.framed`, of a part of a picture that becomes a shape."""
    across, down = ((box[i + 2] - box[i]) / shape[i] for i in (0, 1))
    away = box[1] / down, box[0] / across, (size[0] - box[2]) / across
    return torch.tensor([size[1], size[0], *map(round, away)], dtype=torch.int32)


def mirrored(frame: Int32[Tensor, "*n 5"]) -> Int32[Tensor, "*n 5"]:
    """The frame of the mirror image, whose picture is mirrored too."""
    return frame[..., [0, 1, 2, 4, 3]]


def to_tensor(pixels: UInt8[np.ndarray, "b H W c"]) -> Float32[Tensor, "b c H W"]:
    """Turn levels in 0..255 into [-1, 1], channels first."""
    planes = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    # Not by torch, whose threads would get into each other's way where several decode.
    planes /= np.float32(127.5)
    planes -= np.float32(1)
    return torch.from_numpy(planes)


def eight_bits(
    images: Float[Tensor, "*n c H W"] | UInt8[Tensor, "*n c H W"],
) -> UInt8[Tensor, "*n c H W"]:
    """Images of [-1, 1] in the levels of a saved picture; what is outside is clipped, and what is
    of 8 bits already stays as it is.
    """
    if images.dtype == torch.uint8:
        return images
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def in_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """A picture in a mode, which what was decoded for it has already."""
    return image if image.mode == mode else read_image(image, "in memory", Decoding(mode=mode))


def levels(image: Image.Image) -> UInt8[Tensor, "c H W"]:
    """Turn a grey, RGB or RGBA picture into a tensor of 8 bits; colours beside alpha are over
    white.
    """
    pixels = np.asarray(over_white(image) if image.mode == "RGBA" else image)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))


def over_white(image: Image.Image) -> Image.Image:
    """An RGBA picture's colours as they are seen on white, with its alpha beside."""
    seen = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    seen.putalpha(image.getchannel("A"))
    return seen


def straight(images: Float[Tensor, "*n c H W"]) -> Float[Tensor, "*n c H W"]:
    """Images in [-1, 1] as files have them: beside alpha the colours as they were before they were
    seen on white, and white where nothing is seen of them.
    """
    if images.shape[-3] != 4:
        return images
    over, alpha = ((images.float().clamp(-1, 1) + 1) / 2).split((3, 1), -3)
    colours = (1 - (1 - over) / alpha.clamp_min(1e-6)).clamp(0, 1)
    return 2 * torch.cat([torch.where(alpha > 0, colours, 1.0), alpha], -3) - 1


def pixels(image: Image.Image) -> Float32[Tensor, "c H W"]:
    """Turn a picture into a tensor in [-1, 1]."""
    return scaled(levels(image))


def as_is(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Only turn a picture into a tensor of 8 bits, with the first of its captions."""
    example = one_caption(example, "first", rng)
    image = example.get("image")
    return {**example, "image": levels(image)} if isinstance(image, Image.Image) else example
