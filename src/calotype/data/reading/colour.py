"""What colours a picture's numbers mean: its profile's, which become those of sRGB."""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms

from calotype.data.reading.profiles import (
    ADOBE_CURVE,
    ADOBE_RGB,
    REC709,
    SRGB_CURVE,
    matrix_profile,
)

LEVEL = 1
"""Levels of 255 by which a profile's colours may differ from sRGB and still be taken for it."""
KNOWN = 32
"""Profiles that are remembered; pictures of one source share a few."""
MAX_PROFILE = 4 * 2**20
"""Bytes of the largest profile that is heeded; those of printers have one or two million."""
SRGB_GAMMA = (0.45, 0.46)
"""PNG's gammas that stand for the curve of sRGB, which is no power."""


@dataclass(frozen=True)
class ToSRGB:
    """Colours become those of sRGB, by the profile that a picture carries, or by what a PNG or a
    camera says in its place; without any they are taken for it. What sRGB cannot show is clipped
    (relative colorimetric, black points matched).
    """

    def __call__(self, image: Image.Image, info: dict[Any, Any]) -> Image.Image:
        """Convert a picture of 8 bits by what is known of it.

        Raises:
            ValueError: its profile is broken, or of another kind of picture.
        """
        profile = info.get("icc_profile") or _said(info)
        if not profile or image.mode in ("1", "LAB"):
            return image
        plain, alpha = _plain(image)
        if isinstance(profile, bytes) and len(profile) > MAX_PROFILE:
            raise ValueError(f"more than {MAX_PROFILE} bytes")
        conversion = _conversion(profile, plain.mode)
        if conversion is None:
            return image
        # A grey may mean a colour's grey: its profile says so.
        colours = conversion.apply(plain.convert(conversion.input_mode))
        if alpha is not None:
            colours.putalpha(alpha)
        return colours


@dataclass(frozen=True)
class AsStored:
    """Numbers stay as they are stored, whatever colours they mean."""

    def __call__(self, image: Image.Image, info: dict[Any, Any]) -> Image.Image:
        """Give it back."""
        return image


Colour = ToSRGB | AsStored
"""What becomes of a picture's colours."""
TO_SRGB = ToSRGB()


def _plain(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Part colours, or greys, from how opaque they are; None: they are."""
    if image.has_transparency_data:
        rgba = image if image.mode == "LA" else image.convert("RGBA")
        return rgba.convert("L" if image.mode == "LA" else "RGB"), rgba.getchannel("A")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB"), None


def _said(info: dict[Any, Any]) -> bytes | None:
    """A profile of what is said in its place; None: nothing is."""
    if "srgb" in info:  # a PNG's word that it is; what else it says is for old programs
        return None
    if "gamma" in info or "chromaticity" in info:
        return _of_png(info.get("gamma"), info.get("chromaticity"))
    if b"R03" in (info.get("exif") or b"") and _is_adobe_rgb(info["exif"]):
        return matrix_profile(ADOBE_RGB, ADOBE_CURVE)
    return None


def _of_png(gamma: float | None, chromaticities: Any) -> bytes | None:
    is_srgb = gamma is None or SRGB_GAMMA[0] < gamma < SRGB_GAMMA[1]
    if not is_srgb and not gamma:
        raise ValueError("a gamma of 0")
    if is_srgb and chromaticities is None:
        return None
    curve = SRGB_CURVE if is_srgb else (1 / float(gamma or 1),)
    return matrix_profile(tuple(chromaticities or REC709), curve)


def _is_adobe_rgb(data: bytes) -> bool:
    """Whether a camera says so, by its name for files of that kind (DCF 2.0)."""
    exif = Image.Exif()
    # Pillow raises nearly anything on broken EXIF; the picture beside it may well be good.
    try:
        exif.load(data)
        return exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex) == "R03"
    except Exception:
        return False


@lru_cache(maxsize=KNOWN)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What makes sRGB of a profile's colours; None: they are that already."""
    try:
        opened: Any = ImageCms.ImageCmsProfile(BytesIO(profile))
        colourful = opened.profile.xcolor_space.strip() == "RGB"
        transform = ImageCms.buildTransform(
            opened, ImageCms.createProfile("sRGB"),
            "RGB" if mode == "L" and colourful else mode, "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError((str(error).splitlines() or ["no profile"])[0]) from error
    return None if _moves_nothing(transform) else transform


def _moves_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether all colours of a lattice stay what they are, but for rounding."""
    if transform.input_mode == "CMYK":
        return False
    lattice = Image.fromarray(_lattice(transform.input_mode))
    before, after = (
        np.asarray(image.convert("RGB"), int) for image in (lattice, transform.apply(lattice))
    )
    return bool(abs(before - after).max() <= LEVEL)


def _lattice(mode: str) -> UInt8[np.ndarray, "..."]:
    """All greys, or colours from all over the cube and all its greys."""
    greys = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return greys[None]
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    return np.concatenate([cube, np.stack([greys] * 3, -1)])[None]
