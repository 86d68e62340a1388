"""Decoding pictures of every odd kind to one kind: RGB, 8 bits, upright."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from calotype.training.images import Mode

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


class BrokenImage(ValueError):  # noqa: N818 (it names what is wrong, as a reader says it)
    """A picture that cannot be decoded; the message names the file and the reason."""


@dataclass(frozen=True)
class Decoding:
    """How pictures are decoded."""

    mode: Mode = "RGB"
    """What they become; without a place for it, transparency is composited on white."""


TO_RGB = Decoding()


def read_image(
    file: bytes | Path | Image.Image,
    name: str,
    decoding: Decoding = TO_RGB,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode a picture to 8 bits.

    The EXIF orientation is applied if it can be read, transparency is composited on white, the
    first frame of an animation is taken, and 12-bit, 16-bit, 32-bit and floating-point greys are
    scaled from their whole range, not clipped.

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
        image.load()  # before EXIF is asked: a PNG's may follow the pixels, a TIFF is turned here
        return _upright(_to_mode(image, decoding.mode), _orientation(image))
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


def _to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
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
