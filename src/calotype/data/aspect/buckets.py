"""Aspect buckets: pictures of any ratio in a few shapes of about one area, so that little of each
is lost (Podell et al. 2023, section 2.3).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from calotype.data.aspect.boxes import Box, placed, reducible, resized

AREAS = (0.02, 0.05, 0.1)
"""Parts by which buckets' areas may differ from that of the square: ladders are sought by each."""


class Shape(NamedTuple):
    """Width and height of an image, in pixels."""

    width: int
    height: int

    @property
    def ratio(self) -> float:
        """Width / height."""
        return self.width / self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Buckets:
    """Each picture is resized to cover the bucket whose ratio is nearest to its own, and cropped to
    it. A batch is of one bucket.

    Of a picture whose sides differ by no more than `ratio`, at most `lost` of its area is cropped
    away. Pictures with fewer pixels than their bucket are enlarged; how many there are is told.

    Raises:
        ValueError: a number is not possible, or there are no such shapes.
    """

    size: int = 256
    """Every bucket has about the area of a square of so many pixels a side, within a tenth."""
    step: int = 8
    """Sides are multiples of so many pixels: of the tokenizer's factor, and for a UNet of that
    times two for each halving."""
    ratio: float = 2.0
    """Long side / short side, up to which pictures lose no more than `lost`."""
    lost: float = 0.12
    """Most of a picture's area that is cropped away; less makes more buckets."""
    place: Literal["random", "centre"] = "random"
    """Where a picture is cropped."""
    beyond: Literal["crop", "refuse"] = "crop"
    """What becomes of pictures that are longer than `ratio`: they lose more, or are refused by
    name."""

    def __post_init__(self) -> None:
        for name in ("size", "step"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"transform.crop.{name} is {value}: it must be at least 1")
        if self.size % self.step:
            raise ValueError(
                f"transform.crop.size is {self.size}: choose a multiple of transform.crop.step, "
                f"{self.step}"
            )
        if not 1 <= self.ratio < math.inf:
            raise ValueError(f"transform.crop.ratio is {self.ratio}: it must be at least 1")
        if not 0 < self.lost < 1:
            raise ValueError(f"transform.crop.lost is {self.lost}: it must lie between 0 and 1")
        if not _ladder(self.size // self.step, self.ratio, self.lost):
            raise ValueError(
                f"transform.crop: of {self.size}x{self.size} pixels in steps of {self.step} there "
                f"are too few shapes up to {self.ratio:g}:1 to lose no more than {self.lost:.0%} "
                "of a picture: choose a larger size, a smaller step or ratio, or lose more"
            )

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All buckets, from the tallest to the widest; the square is in the middle. As few as
        suffice, so that there are many pictures to each.
        """
        wide = _ladder(self.size // self.step, self.ratio, self.lost)
        cells = [(h, w) for w, h in reversed(wide[1:])] + list(wide)
        return tuple(Shape(self.step * w, self.step * h) for w, h in cells)

    def nearest(self, width: int, height: int) -> Shape:
        """The bucket of a picture: the one whose ratio differs least in log."""
        return self.shapes[int(self.chosen(np.array([[width, height]]))[0])]

    def chosen(self, sizes: np.ndarray) -> np.ndarray:
        """Place in `shapes` of the bucket of each picture of [n, 2] widths and heights."""
        ratios = np.log([shape.ratio for shape in self.shapes])
        between = (ratios[1:] + ratios[:-1]) / 2
        return np.searchsorted(between, np.log(sizes[:, 0] / sizes[:, 1]))

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Resize and crop to the picture's own bucket."""
        shape = self.nearest(*image.size)
        return resized(image, self.part(image.size, shape, rng), shape)

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Draw, or find, what is kept of a picture."""
        return self.part((width, height), self.nearest(width, height), rng)

    def part(self, size: tuple[int, int], shape: Shape, rng: np.random.Generator) -> Box:
        """As `box`, of a picture that comes to a given bucket."""
        scale = min(size[0] / shape.width, size[1] / shape.height)
        if self.place == "random":
            return placed(size, shape, scale, rng)
        width, height = (
            min(scale * side, float(whole)) for side, whole in zip(shape, size, strict=True)
        )
        left, top = (size[0] - width) / 2, (size[1] - height) / 2
        return left, top, left + width, top + height

    def reduction(self, width: int, height: int) -> int:
        """By how much such a picture may be decoded smaller."""
        shape = self.nearest(width, height)
        return min(reducible(width, shape.width), reducible(height, shape.height))

    def lost_of(self, width: int, height: int) -> float:
        """Part of a picture's area that is cropped away."""
        apart = math.log(width / height) - math.log(self.nearest(width, height).ratio)
        return 1 - math.exp(-abs(apart))


@dataclass(frozen=True)
class Listed(Buckets):
    """Shapes that are given, such as those that a pipeline draws; pictures of any ratio go to the
    nearest and are cropped in the middle, however much that is.
    """

    listed: tuple[Shape, ...] = ()
    ratio: float = math.inf
    place: Literal["random", "centre"] = "centre"

    def __post_init__(self) -> None:
        assert self.listed

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All buckets, from the tallest to the widest."""
        return tuple(sorted(self.listed, key=lambda shape: shape.ratio))


@lru_cache
def _ladder(cells: int, ratio: float, lost: float) -> tuple[tuple[int, int], ...]:
    """Widths and heights in steps, from the square to the widest that is needed: as few as can
    be, and of those as near to one area; (): there are too few shapes.
    """
    found = [_climb(cells, ratio, lost, area) for area in AREAS]
    return min(filter(None, found), key=len, default=())


def _climb(cells: int, ratio: float, lost: float, area: float) -> tuple[tuple[int, int], ...]:
    """From the square the widest shape that leaves no ratio between the two too far from both."""
    reach = 1 / (1 - lost)
    shapes = sorted(_wide(cells, area), key=lambda shape: shape[0] / shape[1])
    ladder = [(cells, cells)]
    while (last := ladder[-1][0] / ladder[-1][1]) * reach < ratio:
        near = [(w, h) for w, h in shapes if last < w / h <= last * reach**2]
        if not near:
            return ()
        ladder.append(near[-1])
    return tuple(ladder)


def _wide(cells: int, area: float) -> Iterable[tuple[int, int]]:
    for height in range(1, cells):
        for width in range(cells + 1, int((1 + area) * cells**2 / height) + 1):
            if abs(width * height / cells**2 - 1) <= area:
                yield width, height
