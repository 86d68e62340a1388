"""Decoding pictures of every odd kind to one kind: sRGB, 8 bits, upright."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

from calotype.data.colour import TO_SRGB, Colour

Image.init()

FORMATS = tuple(
    name
    for name in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
    if name in Image.OPEN  # AVIF and WEBP depend on how Pillow was built
)
"""What is opened. Pillow would run Ghostscript on an EPS file, which no stranger's may ask for."""

SUFFIXES = frozenset(s for s, name in Image.registered_extensions().items() if name in FORMATS)
"""File endings of these formats, in lower case, with the dot."""

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


Mode = Literal["L", "RGB", "RGBA"]
"""Of a decoded picture, as Pillow calls it: grey, colours, or colours and how opaque they are."""


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


def read_image(
    file: bytes | Path | Image.Image,
    name: str,
    decoding: Decoding = TO_RGB,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode a picture to 8 bits; see `decode`."""
    return decode(file, name, decoding, max_pixels).image


def decode(
    file: bytes | Path | Image.Image,
    name: str,
    decoding: Decoding = TO_RGB,
    max_pixels: int = MAX_PIXELS,
) -> Decoded:
    """Decode a picture to 8 bits, and say how large it is.

    The EXIF orientation is applied if it can be read, transparency is composited on white unless
    it is asked for, the first frame of an animation is taken, and 12-bit, 16-bit, 32-bit and
    floating-point greys are scaled from their whole range, not clipped.

    Args:
        file: An encoded picture, its path, or a picture that is decoded already.
        name: What errors call it.
        decoding: What it becomes.
        max_pixels: Largest width * height that is decoded; Pillow's own limit holds beside it.

    Raises:
        BrokenImage: it is no picture, is truncated, or has more than `max_pixels` pixels.
    """
    try:
        image = _open(file)
        if not 0 < image.width * image.height <= max_pixels:
            raise ValueError(f"{image.width}x{image.height} pixels, at most {max_pixels} are read")
        size, reduction = _reduce(image, decoding)
        image.load()  # before EXIF is asked: a PNG's may follow the pixels, a TIFF is turned here
        orientation = _orientation(image)
        upright = _upright(_to_mode(_in_colour(image, decoding.colour), decoding.mode), orientation)
        return Decoded(upright, size if reduction > 1 else upright.size, reduction)
    # Fed with broken bytes, Pillow's decoders raise nearly every exception there is.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenImage(f"cannot read picture {name}: {reason}") from error


def _open(file: bytes | Path | Image.Image) -> Image.Image:
    if isinstance(file, Image.Image):
        return file
    data = file.read_bytes() if isinstance(file, Path) else file
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        what = "no bytes" if not data else f"none of the formats {', '.join(FORMATS)}"
        raise ValueError(what) from None


def _orientation(image: Image.Image) -> object:
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


def _in_colour(image: Image.Image, colour: Colour) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    try:
        return colour(image)
    except ValueError:
        return image


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
