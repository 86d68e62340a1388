"""Defects planted into pictures, with masks: what a detector finds can be tried where there are no
pictures of real ones. Which a picture gets is a function of the generator alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from calotype.lazy import scipy

Picture = UInt8[np.ndarray, "H W c"]
Mask = Bool[np.ndarray, "H W"]
Defect = Callable[[Picture, np.random.Generator], tuple[Picture, Mask]]

SEEN, LEAST = 24, 0.003
"""Levels by which a defect differs, in at least so large a part of the picture; one that is less
is drawn again."""
DRAWS = 20
"""How often."""


def planted(picture: Picture, kind: str, chance: np.random.Generator) -> tuple[Picture, Mask]:
    """A copy with a defect, and where it is: pixels that it changed by a level or more.

    Args:
        picture: With its channels last.
        kind: One of `DEFECTS`.
        chance: Where it is and how it looks.

    Raises:
        ValueError: there is no such kind, or the picture hides what was drawn, such as a part
            that is missing from where there is nothing.
    """
    if kind not in DEFECTS:
        raise ValueError(f"no defect is called {kind}: choose from {', '.join(DEFECTS)}")
    for _ in range(DRAWS):
        found, where = DEFECTS[kind](picture, chance)
        apart = np.abs(found.astype(int) - picture).max(2)
        if (apart >= SEEN).mean() >= LEAST:
            return found, where & (apart > 0)
    raise ValueError(f"a defect of kind {kind} cannot be seen in this picture: choose another")


def scratch(picture: Picture, chance: np.random.Generator) -> tuple[Picture, Mask]:
    """A thin bent line, darker or lighter than all around it."""
    height, width = picture.shape[:2]
    length, angle = chance.uniform(0.25, 0.6) * min(height, width), chance.uniform(0, 2 * np.pi)
    along = np.linspace(-0.5, 0.5, 8 * max(height, width))
    bent = chance.uniform(-0.15, 0.15) * length * (4 * along**2 - 1)
    x = chance.uniform(0.25, 0.75) * width + along * length * np.cos(angle) - bent * np.sin(angle)
    y = chance.uniform(0.25, 0.75) * height + along * length * np.sin(angle) + bent * np.cos(angle)
    line = np.zeros((height, width), bool)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    line[y[inside].astype(int), x[inside].astype(int)] = True
    if more := min(height, width) // 128:  # by 0 it would be widened until all is line
        images: Any = scipy.ndimage
        line = images.binary_dilation(line, iterations=more)
    level = 0 if picture[line].mean() > 127 else 255
    return _laid(picture, line, np.full_like(picture, level), 0.8), line


def blob(picture: Picture, chance: np.random.Generator) -> tuple[Picture, Mask]:
    """A stain of a colour of its own."""
    where = _patch(picture.shape[:2], chance, 0.06, 0.14)
    colour = chance.integers(0, 256, picture.shape[2])
    return _laid(picture, where, np.broadcast_to(colour, picture.shape), 0.85), where


def missing(picture: Picture, chance: np.random.Generator) -> tuple[Picture, Mask]:
    """A part that is not there: what surrounds it goes on over it."""
    where = _patch(picture.shape[:2], chance, 0.1, 0.18)
    images: Any = scipy.ndimage
    nearest = images.distance_transform_edt(where, return_distances=False, return_indices=True)
    filled = picture[tuple(nearest)]
    smooth = images.uniform_filter(filled.astype(float), (5, 5, 1))
    return _laid(picture, where, smooth, 1.0), where


def displaced(picture: Picture, chance: np.random.Generator) -> tuple[Picture, Mask]:
    """A square part that lies elsewhere than it should."""
    height, width = picture.shape[:2]
    side = int(chance.uniform(0.18, 0.3) * min(height, width))
    from_y, to_y = chance.integers(0, height - side + 1, 2)
    from_x, to_x = chance.integers(0, width - side + 1, 2)
    found, where = picture.copy(), np.zeros((height, width), bool)
    found[to_y : to_y + side, to_x : to_x + side] = picture[
        from_y : from_y + side, from_x : from_x + side
    ]
    where[to_y : to_y + side, to_x : to_x + side] = True
    return found, where


def colour(picture: Picture, chance: np.random.Generator) -> tuple[Picture, Mask]:
    """A part whose channels are exchanged, or, of a grey picture, whose levels are reversed."""
    where = _patch(picture.shape[:2], chance, 0.12, 0.22)
    channels = picture.shape[2]
    other = picture[..., np.roll(np.arange(channels), 1)] if channels == 3 else 255 - picture
    return _laid(picture, where, other, 1.0), where


DEFECTS: dict[str, Defect] = {
    "scratch": scratch, "blob": blob, "missing": missing, "displaced": displaced, "colour": colour,
}  # fmt: skip


def _patch(shape: tuple[int, int], chance: np.random.Generator, least: float, most: float) -> Mask:
    """A round part with a wavy rim; radii are parts of the shorter side."""
    height, width = shape
    radius = chance.uniform(least, most) * min(shape)
    y0, x0 = chance.uniform(0.2, 0.8) * height, chance.uniform(0.2, 0.8) * width
    y, x = np.mgrid[:height, :width]
    angle, turns = np.arctan2(y - y0, x - x0), chance.uniform(0, 2 * np.pi, 2)
    rim = 1 + 0.2 * np.sin(3 * angle + turns[0]) + 0.12 * np.sin(5 * angle + turns[1])
    return np.hypot(y - y0, x - x0) < radius * rim


def _laid(picture: Picture, where: Mask, over: np.ndarray, part: float) -> Picture:
    """So much of another picture, over one."""
    mixed = (1 - part) * picture + part * over
    return np.where(where[..., None], mixed.round().clip(0, 255), picture).astype(np.uint8)
