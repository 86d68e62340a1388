"""Flat shapes drawn from their signed distances, antialiased at any size."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _half_planes(x: np.ndarray, y: np.ndarray, *edges: tuple[float, float, float]) -> np.ndarray:
    """Signed distances to lines given as (normal x, normal y, offset), stacked in front."""
    distances = []
    for normal_x, normal_y, offset in edges:
        length = np.float32(np.hypot(normal_x, normal_y))
        distances.append((x * np.float32(normal_x) + y * np.float32(normal_y)) / length - offset)
    return np.stack(distances)


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 1


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _box(x, y, 0.85, 0.85)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Apex at (0, -0.95), base from (-1, 0.85) to (1, 0.85): centred in its bounding box."""
    slope = 0.95 / np.hypot(1.8, 1.0)
    edges = (1.8, -1.0, slope), (-1.8, -1.0, slope), (0.0, 1.0, 0.85)
    return _half_planes(x, y, *edges).max(0)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_box(x, y, 1.0, 0.34), _box(x, y, 0.34, 1.0))


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) + np.abs(y) - 1) * np.float32(np.sqrt(0.5))


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.75)) - np.float32(0.25)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: all that lies beyond at most one side of the pentagon within."""
    angles = np.pi / 2 + 2 * np.pi / 5 * np.arange(5)
    apothem = np.cos(2 * np.pi / 5)  # puts the points at distance 1
    sides = _half_planes(x, y, *((np.cos(a), np.sin(a), apothem) for a in angles))
    return np.partition(sides, 3, axis=0)[3]


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Join a square on its corner to a disc on each of its upper sides."""
    half, lift = 0.56, 0.16
    y = y - np.float32(lift)
    root = np.float32(np.sqrt(0.5))
    u, v = (x + y) * root, (y - x) * root
    right = np.sqrt(u * u + (v + half) ** 2) - half
    left = np.sqrt((u + half) ** 2 + v * v) - half
    return np.minimum(_box(u, v, half, half), np.minimum(left, right))


SHAPES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "diamond": _diamond,
    "ring": _ring,
    "star": _star,
    "heart": _heart,
}
"""Signed distances, negative inside, of shapes within [-1, 1] on both axes (y points down)."""


def coverage(
    shapes: Sequence[str], layout: Float32[np.ndarray, "n 3"], size: int
) -> Float32[np.ndarray, "n size size"]:
    """Give the fraction of each pixel that a shape covers, one mask for each row of `layout`.

    Args:
        shapes: n names from `SHAPES`.
        layout: n rows of (x, y, radius), as fractions of the image's side; y points down.
        size: Side of the masks, in pixels.
    """
    pixels = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x, y, radius = layout.T[:, :, None, None]
    x, y = (pixels[None, None, :] - x) / radius, (pixels[None, :, None] - y) / radius
    scale = radius * np.float32(size)
    masks = np.empty((len(layout), size, size), np.float32)
    names = np.asarray(shapes)
    for name in set(shapes):
        rows = names == name
        distance = SHAPES[name](x[rows], y[rows]) * scale[rows]  # in pixels
        masks[rows] = np.clip(np.float32(0.5) - distance, 0, 1)
    return masks
