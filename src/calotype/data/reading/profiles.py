"""Colour profiles where a picture says in numbers what its colours are, and carries no profile."""

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float64

Chromaticities = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue."""

REC709: Chromaticities = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""Of sRGB."""
ADOBE_RGB: Chromaticities = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""Gamma, slope and offset of the power, slope of the linear part and where that ends."""
ADOBE_CURVE = (563 / 256,)

BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
"""Of XYZ to what the eye's receptors see of it, in which one white becomes another."""
D50 = np.array([0.9642, 1.0, 0.8249])
"""White of all profiles."""
CURVES = {1: 0, 5: 3}
"""How ICC calls a curve of so many numbers."""


@lru_cache(maxsize=16)
def matrix_profile(primaries: Chromaticities, curve: tuple[float, ...]) -> bytes:
    """Make an ICC profile (v4) of three primaries and one curve: a gamma, or the five numbers of
    sRGB's.

    Raises:
        ValueError: they are no colours, or there is no such curve.
    """
    numbers = np.array(_colorants(primaries)).T.tolist()
    tags = {b"wtpt": _xyz(D50.tolist())}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, numbers), strict=True))
    shared = b"para" + bytes(4) + struct.pack(">HH", CURVES[len(curve)], 0) + _fixed(curve)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), shared)
    return _profile(tags)


def _colorants(primaries: Chromaticities) -> Float64[np.ndarray, "xyz rgb"]:
    """What red, green and blue at full are in XYZ, seen under D50."""
    x, y = np.array(primaries).reshape(4, 2).T
    if not (0 < y).all() or not (0 <= x).all() or not (x + y <= 1).all():
        raise ValueError(f"no chromaticities: {primaries}")
    white, *colours = np.stack([x / y, np.ones(4), (1 - x - y) / y], 1)
    full = np.stack(colours, 1)
    try:
        full = full * np.linalg.solve(full, white)
    except np.linalg.LinAlgError:
        raise ValueError(f"no three colours: {primaries}") from None
    scale = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ scale @ BRADFORD @ full


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _fixed(values: Sequence[float]) -> bytes:
    """ICC's s15Fixed16 numbers."""
    if not all(-32768 <= value < 32768 for value in values):
        raise ValueError(f"not possible in a profile: {values}")
    return b"".join(struct.pack(">i", round(value * 2**16)) for value in values)


def _profile(tags: dict[bytes, bytes]) -> bytes:
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        place = 128 + 4 + 12 * len(tags) + len(data)
        table += name + struct.pack(">II", place, len(content))
        data += content + bytes(-len(content) % 4)
    size = 128 + len(table) + len(data)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return header.ljust(68, b"\0") + _fixed(D50.tolist()) + bytes(48) + table + data
