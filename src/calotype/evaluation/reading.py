"""Read the factors of a scene off an image, without a caption and without learning.

The image is taken apart by the palette, and each part is compared with drawings of every shape.
Images of a tokenizer or a generator are blurred, noisy and a little off in colour: each threshold
here stands between that and a wrong factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import ceil

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from calotype.data.drawn.scenes import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SIZES
from calotype.data.drawn.shapes import SHAPES, coverage
from calotype.lazy import scipy

WORKING_SIZE = 32
"""Larger images are averaged down to this many pixels a side: enough for every factor."""
SCALE = 0.03
"""Of the side: images and drawings are blurred by so much, which leaves noise and blur no say."""
COLOUR_TOLERANCE = 20.0
"""CIELAB distance from a palette's colour; the nearest two of the palette are 33 apart."""
SIZE_TOLERANCE = 0.2
"""Of the logarithm of a radius; small and large are 0.52 apart, and vary by 0.03."""
PLACE_TOLERANCE = 0.1
"""Of the side, on either axis; neighbouring places are 0.25 apart, and vary by 0.03."""
FIT = 0.8
"""Least overlap (soft intersection over union) of an object with the best drawing of it."""
UNEXPLAINED = 0.2
"""RGB distance in 0..1 at which a blob that no object explains counts as one more object."""
LEAST_AREA = 0.25 * 2.2 * min(SIZES.values()) ** 2
"""Of the image: a quarter of the smallest object (a small cross); smaller blobs are noise."""
NAMES = tuple(SHAPES)
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""From linear sRGB to CIE XYZ."""


@dataclass(frozen=True)
class Found:
    """An object read off an image; None where a factor is none that scenes have."""

    shape: str
    colour: str | None
    size: str | None
    place: str | None
    centre: tuple[float, float]
    """(x, y) as fractions of the side; y points down."""


@dataclass(frozen=True)
class Reading:
    """What an image shows."""

    background: str | None
    objects: tuple[Found, ...]
    """At most as many as were looked for."""
    complete: bool
    """Whether background and objects explain the whole image."""


def read(image: Float[Tensor, "3 S S"], objects: int) -> Reading:
    """Look for so many objects of different colours in an image.

    Args:
        image: sRGB in [-1, 1]; what is beyond is clipped.
        objects: 1 or 2.
    """
    pixels = _smooth(_working_pixels(image))
    border = _border(pixels)
    plain = np.median(border, axis=0)
    background = _nearest_colour(plain, BACKGROUNDS)
    palette = np.array(list(COLOURS.values())) / 255 - plain
    alphas = _unmix(pixels - plain, palette, objects)
    fits = [fit for alpha in alphas if (fit := _fit_object(alpha)) is not None]
    if not fits or not _is_plain(border, plain):
        return Reading(None, (), False)
    colours, rest = _explain(pixels - plain, np.stack([fit.mask for fit in fits]))
    found = [_name(fit, plain + c) for fit, c in zip(fits, colours, strict=True)]
    return Reading(background, tuple(found), not _has_blob(rest))


def relation(first: Found, second: Found) -> str:
    """Name where the first object is, seen from the second: along the axis of the larger step."""
    step = np.subtract(first.centre, second.centre)
    return max(RELATIONS, key=lambda name: float(np.dot(step, RELATIONS[name])))


def _working_pixels(image: Tensor) -> Float[np.ndarray, "s s 3"]:
    image = image.detach().float().cpu().clamp(-1, 1)
    if image.shape[-1] > WORKING_SIZE:
        image = F.interpolate(image[None], size=(WORKING_SIZE, WORKING_SIZE), mode="area")[0]
    return ((image + 1) / 2).permute(1, 2, 0).numpy()


@lru_cache
def _blur(size: int) -> Float[np.ndarray, "s s"]:
    return scipy.ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), SCALE * size, axis=0)


def _smooth(pixels: Float[np.ndarray, "s s c"]) -> Float[np.ndarray, "s s c"]:
    blur = _blur(len(pixels))
    return np.einsum("ij,jkc,lk->ilc", blur, pixels, blur, optimize=True)


def _drawings(
    shapes: Sequence[str], layouts: Float[np.ndarray, "k 3"], size: int
) -> Float[np.ndarray, "k s s"]:
    return _blur(size) @ coverage(shapes, layouts, size) @ _blur(size).T


def _border(pixels: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """Take the outer two pixels of every side: mostly background wherever the objects are."""
    inner = np.zeros(pixels.shape[:2], bool)
    inner[2:-2, 2:-2] = True
    return pixels[~inner]


def _is_plain(border: np.ndarray, plain: np.ndarray) -> bool:
    return float((np.abs(border - plain).max(1) < 0.2).mean()) > 0.6


def _lab(rgb: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Convert sRGB in 0..1 to CIELAB with white D65."""
    linear = np.where(rgb > 0.04045, ((np.maximum(rgb, 0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ TO_XYZ.T / TO_XYZ.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _nearest_colour(rgb: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str | None:
    known = _lab(np.array(list(palette.values())) / 255)
    distances = np.linalg.norm(known - _lab(np.clip(rgb, 0, 1)), axis=-1)
    return list(palette)[distances.argmin()] if distances.min() < COLOUR_TOLERANCE else None


def _unmix(
    difference: Float[np.ndarray, "s s 3"], palette: Float[np.ndarray, "m 3"], objects: int
) -> Float[np.ndarray, "objects s s"]:
    """Give each object's part in every pixel, for the colours that explain the image best.

    A pixel is background mixed with one colour of the `palette` (as differences from background).
    """
    size = len(difference)
    pixels = difference.reshape(-1, 3)
    lengths = np.maximum((palette**2).sum(1, keepdims=True), 1e-6)  # 0 if background has it
    parts = np.clip(palette @ pixels.T / lengths, 0, 1)
    errors = ((parts[..., None] * palette[:, None] - pixels) ** 2).sum(-1)  # (m, pixels)
    choices = combinations(range(len(palette)), objects)
    best = list(min(choices, key=lambda choice: float(errors[list(choice)].min(0).sum())))
    nearest = errors[best] == errors[best].min(0)
    return (parts[best] * nearest).reshape(-1, size, size)


@dataclass(frozen=True)
class _Fit:
    shape: str
    layout: Float[np.ndarray, "3"]
    """(x, y, radius) as fractions of the side."""
    mask: Float[np.ndarray, "s s"]


def _largest_blob(mask: Bool[np.ndarray, "s s"]) -> tuple[np.ndarray, float]:
    """Give the largest connected part and its area as a fraction of the image."""
    labels = np.empty(mask.shape, np.int32)
    scipy.ndimage.label(mask, output=labels)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return labels == areas.argmax(), int(areas.max()) / mask.size


def _fit_object(alpha: Float[np.ndarray, "s s"]) -> _Fit | None:
    """Find the shape, place and radius whose drawing overlaps most with the largest blob."""
    blob, area = _largest_blob(alpha > 0.5)
    if area < LEAST_AREA:
        return None
    around = scipy.ndimage.binary_dilation(blob, iterations=ceil(4 * SCALE * len(alpha)))
    alpha = np.where(around, alpha, 0)
    layouts = _refine(alpha, _guess(alpha))
    masks = _drawings(NAMES, layouts, len(alpha))
    overlaps = _overlaps(alpha, masks)
    best = int(overlaps.argmax())
    return _Fit(NAMES[best], layouts[best], masks[best]) if overlaps[best] > FIT else None


def _overlaps(alpha: np.ndarray, masks: Float[np.ndarray, "k s s"]) -> Float[np.ndarray, " k"]:
    return np.minimum(alpha, masks).sum((1, 2)) / np.maximum(alpha, masks).sum((1, 2))


def _moments(masks: Float[np.ndarray, "k s s"]) -> tuple[np.ndarray, np.ndarray]:
    """Give centroids [k, 2] as (x, y) and areas [k], in units of the side."""
    size = masks.shape[-1]
    pixels = (np.arange(size) + 0.5) / size
    area = masks.sum((1, 2))
    centroid = np.stack([masks.sum(1) @ pixels, masks.sum(2) @ pixels], 1) / area[:, None]
    return centroid, area / size**2


@lru_cache
def _shape_moments() -> tuple[np.ndarray, np.ndarray]:
    """Give every shape's centroid, from its centre, and area, for a radius of 1."""
    layouts = np.full((len(NAMES), 3), (0.5, 0.5, 0.25), np.float32)
    centroids, areas = _moments(coverage(NAMES, layouts, 128))
    return (centroids - 0.5) / 0.25, areas / 0.25**2


def _guess(alpha: Float[np.ndarray, "s s"]) -> Float[np.ndarray, "k 3"]:
    """Lay out each shape so that its centroid and area are those of `alpha`."""
    centroids, areas = _shape_moments()
    centroid, area = _moments(alpha[None])
    radii = np.sqrt(area / areas)
    return np.column_stack([centroid - centroids * radii[:, None], radii]).astype(np.float32)


def _refine(
    alpha: Float[np.ndarray, "s s"], layouts: Float[np.ndarray, "k 3"], rounds: int = 4
) -> Float[np.ndarray, "k 3"]:
    """Fit each shape's layout to `alpha` in least squares, by Gauss-Newton."""
    size, k = len(alpha), len(layouts)
    nudge = np.float32(0.25 / size)
    nudges = np.concatenate([np.zeros((1, 3)), nudge * np.eye(3)]).astype(np.float32)
    damping = 1e-3 * size**2 * np.eye(3)
    for _ in range(rounds):
        trials = (layouts + nudges[:, None]).reshape(-1, 3)
        masks = _drawings(NAMES * 4, trials, size).reshape(4, k, -1)
        slopes = (masks[1:] - masks[0]).transpose(1, 0, 2) / nudge  # (k, 3, pixels)
        errors = (alpha.ravel() - masks[0])[..., None]
        steps = np.linalg.solve(slopes @ slopes.transpose(0, 2, 1) + damping, slopes @ errors)
        layouts = layouts + np.clip(steps[..., 0], -1 / size, 1 / size)
        layouts[:, 2] = np.maximum(layouts[:, 2], 1 / size)
        layouts = layouts.astype(np.float32)
    return layouts


def _explain(
    difference: Float[np.ndarray, "s s 3"], masks: Float[np.ndarray, "n s s"]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "s s 3"]]:
    """Give the objects the colours that explain the image best, and what they leave unexplained."""
    design = masks.reshape(len(masks), -1).T
    colours = np.linalg.lstsq(design, difference.reshape(-1, 3), rcond=None)[0]
    return colours, difference - (design @ colours).reshape(difference.shape)


def _has_blob(rest: Float[np.ndarray, "s s 3"]) -> bool:
    """Say whether something as large as an object is left."""
    _, area = _largest_blob(np.linalg.norm(rest, axis=-1) > UNEXPLAINED)
    return area > LEAST_AREA


def _name(fit: _Fit, rgb: np.ndarray) -> Found:
    *centre, radius = fit.layout.tolist()
    colour = _nearest_colour(rgb, COLOURS)
    sizes = {s: abs(float(np.log(radius / SIZES[s]))) for s in SIZES}
    places = {p: float(np.abs(np.subtract(centre, PLACES[p])).max()) for p in PLACES}
    return Found(
        fit.shape,
        colour,
        _least(sizes, SIZE_TOLERANCE),
        _least(places, PLACE_TOLERANCE),
        (centre[0], centre[1]),
    )


def _least(distances: dict[str, float], tolerance: float) -> str | None:
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] < tolerance else None
