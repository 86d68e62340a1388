"""Pictures of every kind that Python holds them in, to one batch of images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image, ImageOps
from torch import Tensor

from calotype.data.aspect.boxes import BICUBIC
from calotype.data.reading.images import Decoding, read_image
from calotype.data.reading.transforms import pixels
from calotype.training.images import Mode

Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A path, an encoded picture, Pillow's, or an array or tensor of H W, H W C or C H W with 1 to 4
channels: grey, grey with alpha, RGB, RGB with alpha. Of an array that may be either, channels are
last, of a tensor first."""
WHITES = {np.dtype(np.uint8): 2**8 - 1, np.dtype(np.uint16): 2**16 - 1}
"""What white is, of whole numbers; of floating ones it is 1."""
LUMA = np.array([[299], [587], [114]], np.float32) / 1000
"""Of red, green and blue in grey, as Pillow has it."""


@dataclass(frozen=True)
class Center:
    """The central square, resized."""

    size: int
    """Pixels a side."""

    def __call__(self, image: Image.Image, factor: int) -> Image.Image:
        """Crop and resize."""
        return ImageOps.fit(image, (self.size, self.size), BICUBIC)


@dataclass(frozen=True)
class Cover:
    """The picture resized until it covers a shape, and cropped to it in the middle."""

    width: int
    height: int
    """Pixels."""

    def __call__(self, image: Image.Image, factor: int) -> Image.Image:
        """Crop and resize."""
        return ImageOps.fit(image, (self.width, self.height), BICUBIC)


@dataclass(frozen=True)
class Stretch:
    """The whole picture, resized to a square whatever its shape."""

    size: int
    """Pixels a side."""

    def __call__(self, image: Image.Image, factor: int) -> Image.Image:
        """Resize."""
        return image.resize((self.size, self.size), BICUBIC)


@dataclass(frozen=True)
class Within:
    """The whole picture, its longer side resized, on white, or on nothing where there is alpha, to
    a square.
    """

    size: int
    """Pixels a side."""

    def __call__(self, image: Image.Image, factor: int) -> Image.Image:
        """Resize and pad."""
        ground: Any = {"F": 1.0, "RGBA": (255, 255, 255, 0)}.get(image.mode, "white")
        return ImageOps.pad(image, (self.size, self.size), BICUBIC, ground)


@dataclass(frozen=True)
class Trim:
    """The picture as large as it is, but for what is no whole site of the latent: of each side the
    central multiple of the tokenizer's factor.
    """

    def __call__(self, image: Image.Image, factor: int) -> Image.Image:
        """Cut."""
        width, height = (side // factor * factor for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


Fit = Center | Cover | Stretch | Within | Trim
"""How pictures become images that a tokenizer takes."""


def preprocessed(
    pictures: Picture | Sequence[Picture], fit: Fit, factor: int, mode: Mode = "RGB"
) -> Float32[Tensor, "b c H W"]:
    """One batch of images in [-1, 1].

    Pictures are set upright as their EXIF says and brought to one mode: what is transparent is
    white, beside which RGBA keeps its alpha; greys become RGB, and colours become grey by their
    luma (ITU-R 601). Whole numbers are 8 or 16 bits, floating ones lie in [0, 1] and stay what they
    are where nothing is resized.

    Args:
        pictures: One, several of any sizes, or an array or tensor that is a batch.
        fit: How they become images of one size.
        factor: Pixels a side of a site of the latent.
        mode: Channels of the images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one of them is no picture, or they are not of one size afterwards.
    """
    images = []
    for number, picture in enumerate(_each(pictures)):
        found = _read(picture, f"picture {number}", mode)
        images.append(_fitted(found, partial(fit, factor=factor)))
    sizes = {f"{image.shape[-1]}x{image.shape[-2]}" for image in images}
    if len(sizes) != 1:
        found = f"of {', '.join(sorted(sizes))} pixels" if sizes else "none"
        raise ValueError(
            f"pictures of one batch are of one size, and these are {found}: choose Center, Stretch "
            "or Within, or give them one by one"
        )
    if 0 in images[0].shape:
        raise ValueError(f"a picture has no {factor} pixels a side: choose a fit that resizes")
    return torch.stack(images)


def _each(pictures: Any) -> Iterator[Picture]:
    if isinstance(pictures, str | Path | bytes | Image.Image):
        yield pictures
    elif isinstance(pictures, np.ndarray | Tensor) and pictures.ndim < 4:
        yield pictures
    else:
        yield from pictures


def _read(picture: Picture, name: str, mode: Mode) -> Image.Image | Float32[np.ndarray, "H W c"]:
    """In 8 bits as Pillow has it, or as floating numbers in [0, 1], colours over white."""
    decoding = Decoding(mode=mode)
    match picture:
        case str() | Path():
            return read_image(Path(picture), str(picture), decoding)
        case bytes() | Image.Image():
            return read_image(picture, name, decoding)
        case Tensor():
            return _of_values(_last(picture.detach().cpu(), name, (0, -1)), name, mode)
        case np.ndarray():
            return _of_values(_last(picture, name, (-1, 0)), name, mode)
    raise ValueError(
        f"{name} is a {type(picture).__name__}: give a path, a PIL image, an array or a tensor"
    )


def _last(values: Any, name: str, axes: tuple[int, int]) -> np.ndarray:
    """With channels last, which are at one of the `axes`, the first that can be."""
    found = values.float() if getattr(values, "dtype", None) == torch.bfloat16 else values
    array = np.asarray(found)
    if array.ndim == 2:
        return array[..., None]
    axis = next(
        (axis for axis in axes if array.ndim == 3 and array.shape[axis] in range(1, 5)), None
    )
    if axis is None or not array.size:
        raise ValueError(
            f"{name} has the shape {tuple(array.shape)}: give H W, H W C or C H W with 1 to 4 "
            "channels"
        )
    return np.moveaxis(array, axis, -1)


def _of_values(
    array: np.ndarray, name: str, mode: Mode
) -> Image.Image | Float32[np.ndarray, "H W c"]:
    """The same of an array."""
    if array.dtype == np.uint8:
        grey = array.shape[-1] == 1
        pixels = np.ascontiguousarray(array[..., 0] if grey else array)
        return read_image(Image.fromarray(pixels), name, Decoding(mode=mode))
    white = 1 if array.dtype.kind == "f" else WHITES.get(array.dtype)
    if white is None:
        raise ValueError(
            f"{name} is of {array.dtype}: give uint8, uint16, or floating numbers in [0, 1]"
        )
    values = array.astype(np.float32) / np.float32(white)
    if not (values.min() >= 0 and values.max() <= 1):  # which NaN is not either
        raise ValueError(
            f"{name} has values from {values.min():g} to {values.max():g}, and floating ones lie "
            "in [0, 1]: give (x + 1) / 2, or to encode itself what lies in [-1, 1]"
        )
    *colours, _ = np.split(values, [2 * (array.shape[-1] // 3) + 1], axis=-1)
    alpha = values[..., -1:] if array.shape[-1] % 2 == 0 else np.float32(1)
    over_white = colours[0] * alpha + (1 - alpha)
    if mode == "L":
        return over_white @ LUMA if over_white.shape[-1] == 3 else over_white
    seen = np.broadcast_to(over_white, (*array.shape[:2], 3))
    if mode == "RGB":
        return seen
    return np.concatenate([seen, np.broadcast_to(alpha, seen[..., :1].shape)], axis=-1)


def _fitted(
    picture: Image.Image | np.ndarray, fit: Callable[[Image.Image], Image.Image]
) -> Float32[Tensor, "c H W"]:
    if isinstance(picture, Image.Image):
        return pixels(fit(picture))
    # What is put around is white: of alpha, what is seen through is fitted.
    inverted = picture.shape[-1] == 4
    planes = [*np.moveaxis(picture, -1, 0)]
    planes = [*planes[:3], 1 - planes[3]] if inverted else planes
    fitted = [np.asarray(fit(Image.fromarray(np.ascontiguousarray(plane)))) for plane in planes]
    fitted = [*fitted[:3], 1 - fitted[3]] if inverted else fitted
    # A bicubic filter reaches beyond what it is given.
    return torch.from_numpy(np.stack(fitted)).clamp(0, 1) * 2 - 1
