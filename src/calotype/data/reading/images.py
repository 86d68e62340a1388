"""Decoding pictures of every odd kind to one kind: sRGB, 8 bits, upright."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from warnings import warn

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

from calotype.data.reading.colour import TO_SRGB, Colour
from calotype.data.reading.formats import FORMATS, extra_formats, size_of_jxl, what_is
from calotype.data.reading.metadata import bare, profile_of
from calotype.training.images import Mode

MAX_PIXELS = 178_956_970
"""Pillow's own limit, beyond which it too takes a picture for a decompression bomb."""

WHITES = {"I": (2**16 - 1, 2**31 - 1), "F": (1, 2**8 - 1, 2**16 - 1)}
"""What white may be in a mode that does not tell: the least of these that no pixel exceeds."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture of an EXIF orientation upright; 1 is."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations whose width as it is stored is the upright height."""
RIGHT_FIRST = (2, 3, 7, 8)
"""Those that bring the right edge, as it is stored, to the left or the top."""
BOTTOM_FIRST = (3, 4, 6, 7)
"""Those that bring the bottom there."""


class BrokenImage(ValueError):  # noqa: N818 (it names what is wrong, as a reader says it)
    """A picture that cannot be decoded; the message names the file and the reason."""


@dataclass(frozen=True)
class Decoding:
    """How pictures are decoded."""

    mode: Mode = "RGB"
    """What they become; without a place for it, transparency is composited on white."""
    colour: Colour = TO_SRGB
    """What becomes of their colours."""
    reduction: Callable[[int, int], int] | None = None
    """Of an upright picture's width and height: by which power of two, 8 at most, a JPEG may be
    decoded smaller, which saves most of the work; None: by none."""


TO_RGB = Decoding()


class Decoded(NamedTuple):
    """A picture, 8 bits and upright."""

    image: Image.Image
    size: tuple[int, int]
    """Width and height of the whole picture, upright."""
    reduction: int
    """By how much the image is smaller: its pixel (x, y) begins at `reduction` times that of the
    whole picture."""
    doubt: str
    """What of the picture could not be heeded; mostly nothing."""


def read_image(
    file: bytes | Path | Image.Image,
    name: str,
    decoding: Decoding = TO_RGB,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode a picture to 8 bits; see `decode`. What of it cannot be heeded is warned of."""
    decoded = decode(file, name, decoding, max_pixels)
    if decoded.doubt:
        warn(f"{name}: {decoded.doubt}", stacklevel=2)
    return decoded.image


def decode(
    file: bytes | Path | Image.Image,
    name: str,
    decoding: Decoding = TO_RGB,
    max_pixels: int = MAX_PIXELS,
) -> Decoded:
    """Decode a picture to 8 bits, and say how large it is.

    Its colours become those of sRGB unless they are to stay, the EXIF orientation is applied if it
    can be read, transparency is composited on white unless it is asked for, the first frame of an
    animation is taken, and 12-bit, 16-bit, 32-bit and floating-point greys are scaled from their
    whole range, not clipped. What stands beside the pixels, broken or large, refuses no picture.

    Args:
        file: An encoded picture, its path, or a picture that is decoded already.
        name: What errors call it.
        decoding: What it becomes.
        max_pixels: Largest width * height that is decoded; Pillow's own limit holds beside it.

    Raises:
        BrokenImage: it is no picture, is truncated, or has more than `max_pixels` pixels.
        OSError: the file cannot be read.
        MemoryError: there is not enough memory for it.
    """
    data = file.read_bytes() if isinstance(file, Path) else file
    try:
        return _whole_or_bare(data, decoding, max_pixels)
    except MemoryError:
        raise
    # Fed with broken bytes, Pillow's decoders raise nearly every exception there is.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenImage(f"cannot read picture {name}: {reason}") from error


def _whole_or_bare(data: bytes | Image.Image, decoding: Decoding, max_pixels: int) -> Decoded:
    try:
        return _decoded(_open(data, max_pixels), decoding, max_pixels)
    except MemoryError:
        raise
    except Exception:
        if isinstance(data, Image.Image) or (left := bare(data)) is None:
            raise
    image = _open(left, max_pixels)
    if profile := profile_of(data):
        image.info["icc_profile"] = profile
    return _decoded(image, decoding, max_pixels)


def _decoded(image: Image.Image, decoding: Decoding, max_pixels: int) -> Decoded:
    _check(image.width, image.height, max_pixels)
    size, reduction = _reduce(image, decoding)
    image.load()  # before EXIF is asked: a PNG's may follow the pixels, a TIFF is turned here
    orientation, doubt, eight = _orientation(image), "", _eight_bits(image)
    try:
        eight = decoding.colour(eight, image.info)
    except ValueError as error:
        doubt = f"its colours are taken for sRGB, for its profile is not to be used ({error})"
    upright = _upright(_to_mode(eight, decoding.mode), orientation)
    return Decoded(upright, size if reduction > 1 else upright.size, reduction, doubt)


def _check(width: int, height: int, max_pixels: int) -> None:
    if not 0 < width * height <= max_pixels:
        raise ValueError(f"{width}x{height} pixels, at most {max_pixels} are read")


def _open(data: bytes | Image.Image, max_pixels: int) -> Image.Image:
    if isinstance(data, Image.Image):
        return data
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        pass
    if size := size_of_jxl(data):  # which is decoded when it is opened
        _check(*size, max_pixels)
    try:
        return Image.open(BytesIO(data), formats=extra_formats())
    except Image.UnidentifiedImageError:
        raise ValueError(what_is(data)) from None


def _orientation(image: Image.Image) -> object:
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # by its own word it is upright already, and by that of a standard EXIF has none
    # Pillow raises nearly anything on broken EXIF; the picture beside it may well be good.
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    # Not ImageOps.exif_transpose: that writes EXIF anew, and fails on tags it cannot write.
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _reduce(image: Image.Image, decoding: Decoding) -> tuple[tuple[int, int], int]:
    """Have a JPEG decoded smaller, if it may be; its upright size, and by how much."""
    if decoding.reduction is None or not isinstance(image, JpegImagePlugin.JpegImageFile):
        return image.size, 1
    (width, height), orientation = image.size, _orientation(image)
    turned = orientation in SIDEWAYS
    size = (height, width) if turned else (width, height)
    reduction = decoding.reduction(*size)
    # A last column may stand for fewer pixels than others; mirrored, it would be the first.
    while (orientation in RIGHT_FIRST and width % reduction) or (
        orientation in BOTTOM_FIRST and height % reduction
    ):
        reduction //= 2
    if reduction > 1:
        image.draft(None, (width // reduction, height // reduction))
    return size, reduction


def _eight_bits(image: Image.Image) -> Image.Image:
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    return _to_8_bits(image) if deep else image


def _to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    if mode == "RGBA":
        return image.convert("RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    colours = image.convert("RGB")
    return colours if mode == "RGB" else colours.convert(mode)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale a grey picture's whole range to 0..255; a value that stands for none becomes white."""
    values = np.asarray(image, dtype=np.float64)
    whites = WHITES.get(image.mode, (2 ** _bits(image) - 1,))
    white = next((white for white in whites if values.max() <= white), None)
    if white is None:
        raise ValueError(f"mode {image.mode} with values up to {values.max():g}")
    grey = np.rint(values.clip(0) * (255 / white)).astype(np.uint8)
    # Pillow keeps a PNG's one transparent grey as a number, and drops it from this mode.
    grey[values == image.info.get("transparency", np.nan)] = 255
    return Image.fromarray(grey)


def _bits(image: Image.Image) -> int:
    """Bits of a grey that Pillow holds in 16; only of TIFF it leaves fewer unscaled."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16
    return image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
