"""What colours a picture's numbers mean: its profile's, which become those of sRGB."""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

LEVEL = 1
"""Levels of 255 by which a profile may differ from sRGB and still be taken for it."""
KNOWN = 64
"""Profiles that are remembered; pictures of one source share a few."""


@dataclass(frozen=True)
class ToSRGB:
    """Colours become those of sRGB, by the profile that a picture carries; without one they are
    taken for it. What sRGB cannot show is clipped (relative colorimetric, with black points).
    """

    def __call__(self, image: Image.Image) -> Image.Image:
        """Convert a picture, to RGB or RGBA if it has a profile of other colours.

        Raises:
            ValueError: the profile is broken, or of another kind of picture.
        """
        profile = image.info.get("icc_profile")
        if not profile:
            return image
        image = _plain(image)
        transform = _to_srgb(profile, image.mode)
        return image if transform is None else _applied(transform, image)


@dataclass(frozen=True)
class AsStored:
    """Numbers stay as they are stored, whatever colours they mean."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Give it back."""
        return image


Colour = ToSRGB | AsStored
"""What becomes of a picture's colours."""
TO_SRGB = ToSRGB()


def _plain(image: Image.Image) -> Image.Image:
    """Make a palette the colours that it stands for."""
    if image.mode in ("P", "PA") or (image.mode == "RGB" and "transparency" in image.info):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


@lru_cache(maxsize=KNOWN)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What makes sRGB of a profile's colours; None: they are that already."""
    source = {"LA": "L", "1": "L"}.get(mode, mode)
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"),
            source, "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return None if _moves_nothing(transform, source) else transform


def _moves_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether all colours of a lattice stay what they are, but for rounding."""
    if mode == "L":
        colours = np.arange(256, dtype=np.uint8)[None]
    elif mode == "RGB":
        steps = np.linspace(0, 255, 18).astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(18, -1, 3)
    elif mode == "RGBA":
        return False
    else:
        return False
    lattice = Image.fromarray(colours)
    before, after = (np.asarray(image.convert("RGB"), int) for image in
                     (lattice, transform.apply(lattice)))  # fmt: skip
    return abs(before - after).max() <= LEVEL


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    if image.mode != "LA":
        return transform.apply(image)
    grey, alpha = image.split()
    colours = transform.apply(grey)
    colours.putalpha(alpha)
    return colours
