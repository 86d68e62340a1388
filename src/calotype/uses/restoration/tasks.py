"""What pictures are to be restored from, as one says it before their shape is known."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from calotype.data.reading.images import Decoding, read_image
from calotype.tokenizers.corruptions import Corruption
from calotype.uses.restoration.measurements import (
    Colourise,
    Deblur,
    Denoise,
    Measurement,
    SuperResolve,
    Uncover,
    check_noise,
)


@dataclass(frozen=True)
class Inpaint:
    """The picture but for a box, or for what a picture of a mask says."""

    box: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of what is hidden, in pixels of the restored picture; right and
    bottom are the first that are seen again. None, without a mask: the middle half of each side."""
    mask: Path | None = None
    """A picture, white where it is hidden. Of a picture of its size it hides what lies under it; it
    is resized and cropped to others."""
    noise: float = 0.0
    """Of its noise, of images in [-1, 1]."""
    value: float | None = None
    """What hidden pixels are shown to the encoder as, of images in [-1, 1], as in its training.
    None: a smooth continuation of what is around them."""

    taught_by: ClassVar[tuple[type[Corruption], ...]] = Uncover.taught_by
    shrinks: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_noise(self.noise)
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"task.value is {self.value}: it must be finite")
        if self.box is not None and self.mask is not None:
            raise ValueError("--task.box and --task.mask both say what is hidden: give one of them")
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (0 <= left < right and 0 <= top < bottom):
                raise ValueError(
                    f"--task.box is {left} {top} {right} {bottom}: it is left, top, right, bottom, "
                    "with left < right and top < bottom"
                )
        if self.mask is not None and not self.mask.is_file():
            raise ValueError(f"--task.mask: no picture {self.mask}")

    def of(self, height: int, width: int) -> Uncover:
        """The measurement of pictures of one shape.

        Raises:
            ValueError: all of such a picture would be hidden, or none of it.
        """
        hidden = self._masked(height, width) if self.mask else self._boxed(height, width)
        return self.hiding(hidden)

    def hiding(self, hidden: Float[Tensor, "1 H W"]) -> Uncover:
        """The measurement of pictures of which 1 is hidden, where it is 1.

        Raises:
            ValueError: all of such a picture would be hidden, or none of it.
        """
        height, width = hidden.shape[1:]
        if not 0 < (share := float(hidden.mean())) < 1:
            what = "--task.mask" if self.mask else "--task.box"
            raise ValueError(
                f"{what} hides {'all' if share else 'nothing'} of a picture of {width}x{height} "
                "pixels: hide some of it"
            )
        return Uncover(hidden[None], self.noise, self.value)

    def _boxed(self, height: int, width: int) -> Float[Tensor, "1 H W"]:
        middle = width // 4, height // 4, width - width // 4, height - height // 4
        left, top, right, bottom = self.box or middle
        hidden = torch.zeros(1, height, width)
        hidden[:, top:bottom, left:right] = 1
        return hidden

    def _masked(self, height: int, width: int) -> Float[Tensor, "1 H W"]:
        assert self.mask is not None
        mask = read_image(self.mask, str(self.mask), Decoding(mode="L"))
        fitted = ImageOps.fit(mask, (width, height), Image.Resampling.NEAREST)
        return torch.from_numpy(np.asarray(fitted) > 127)[None].float()


Task = Denoise | Deblur | SuperResolve | Inpaint | Colourise


def measured(task: Task, height: int, width: int) -> Measurement:
    """A task's measurement of pictures of one shape.

    Raises:
        ValueError: there is none of such.
    """
    return task.of(height, width) if isinstance(task, Inpaint) else task
