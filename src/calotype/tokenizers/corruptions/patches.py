"""Patches that are hidden, and are to be told from those that are seen."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.corruptions.base import (
    Corrupted,
    Corruption,
    Images,
    check_level,
    check_share,
)
from calotype.tokenizers.corruptions.filling import filled
from calotype.training.noise import Generators, sent


@dataclass(frozen=True)
class HiddenPatches(Corruption):
    """Square patches at random, of which the same number is hidden in each picture (He et al. 2022,
    section 3). Encoders of convolutions see them in one value, or filled; a ViT encoder of
    transformers' ViTMAE does not see them at all.
    """

    share: float = 0.75
    """Of patches."""
    size: int = 8
    """Pixels a side of a patch."""
    value: float | None = 0.0
    """What hidden pixels are set to: middle grey, for images in [-1, 1]. None: a smooth
    continuation of what is around them."""
    counts_all: bool = False
    """Whether pixels that were seen count in the loss too."""

    def __post_init__(self) -> None:
        check_share("corruption.share", self.share)
        if self.value is not None:
            check_level(self.value)
        if self.size < 1:
            raise ValueError(f"corruption.size is {self.size}: it must be at least 1")

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Hide them.

        Raises:
            ValueError: patches do not fill the picture, or the share of them is none or all.
        """
        grid = self._grid(images)
        hidden = sent(torch.stack([self._one(*grid, g) for g in generators]), images.device)
        hidden = hidden.repeat_interleave(self.size, -2).repeat_interleave(self.size, -1)
        seen = filled(images, hidden, self.value)
        return Corrupted(seen, None if self.counts_all else hidden)

    def _grid(self, images: Images) -> tuple[int, int]:
        height, width = images.shape[-2:]
        if height % self.size or width % self.size:
            raise ValueError(
                f"corruption.size is {self.size} and does not divide images of {width}x{height} "
                "pixels: choose one that does"
            )
        rows, columns = height // self.size, width // self.size
        if not 0 < (hidden := round(self.share * rows * columns)) < rows * columns:
            raise ValueError(
                f"corruption.share is {self.share}, of {rows * columns} patches {hidden}: some "
                "must be hidden and some not; choose smaller patches by corruption.size"
            )
        return rows, columns

    def _one(self, rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "1 h w"]:
        order = torch.rand(rows * columns, generator=generator).argsort()
        hidden = torch.zeros(rows * columns)
        hidden[order[: round(self.share * rows * columns)]] = 1
        return hidden.view(1, rows, columns)


@dataclass(frozen=True)
class HiddenBox(Corruption):
    """A box at a random place that is hidden, and is to be told from what is around it (Pathak et
    al. 2016): what inpainting begins with.
    """

    smallest: int = 16
    """Pixels of its sides, each drawn by itself: the least."""
    largest: int = 24
    """The most."""
    value: float | None = None
    """What hidden pixels are set to, of images in [-1, 1]. None: a smooth continuation of what is
    around them."""
    counts_all: bool = False
    """Whether pixels that were seen count in the loss too."""

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest:
            raise ValueError(
                f"corruption.smallest is {self.smallest} and corruption.largest {self.largest}: "
                "they are 1 or more, in this order"
            )
        if self.value is not None:
            check_level(self.value)

    def __call__(self, images: Images, generators: Generators) -> Corrupted:
        """Hide it.

        Raises:
            ValueError: it would be the whole side of a picture.
        """
        height, width = images.shape[-2:]
        if self.largest >= min(height, width):
            raise ValueError(
                f"corruption.largest is {self.largest}, of images of {width}x{height} pixels: "
                "choose less than a side"
            )
        hidden = sent(torch.stack([self._one(height, width, g) for g in generators]), images.device)
        seen = filled(images, hidden, self.value)
        return Corrupted(seen, None if self.counts_all else hidden)

    def _one(self, height: int, width: int, generator: torch.Generator) -> Float[Tensor, "1 H W"]:
        hidden = torch.zeros(1, height, width)
        down, right = (_drawn(self.smallest, self.largest, generator) for _ in range(2))
        top, left = _drawn(0, height - down, generator), _drawn(0, width - right, generator)
        hidden[:, top : top + down, left : left + right] = 1
        return hidden


def _drawn(least: int, most: int, generator: torch.Generator) -> int:
    return int(torch.randint(least, most + 1, (), generator=generator))
