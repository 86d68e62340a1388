"""What was seen of a picture: y = A(x) + n, by operators that are linear and have gradients.

They are those of `calotype.tokenizers.corruptions`, so that a tokenizer that was trained by such a
corruption is shown what it learnt to restore.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.corruptions import (
    Blur,
    Corruption,
    Downsampling,
    GaussianNoise,
    Grey,
    HiddenBox,
    HiddenPatches,
    Masking,
)
from calotype.tokenizers.corruptions.filling import filled
from calotype.tokenizers.corruptions.optics import averaged, blurred, enlarged, luma
from calotype.training.noise import Generators, gaussian

Images = Float[Tensor, "b c H W"]
Seen = Float[Tensor, "b k h w"]
"""What was seen of images, in the same unit; of a smaller picture fewer pixels, of a grey one fewer
channels."""
Several = Sequence[Float[Tensor, "_ _ _ _"]]
"""Batches of which each has a shape of its own."""


class Measurement(ABC):
    """What became of a picture on its way to whoever saw it."""

    noise: float
    """Standard deviation of normal noise in what is seen, of images in [-1, 1]."""
    shrinks: int = 1
    """By how much the sides of what is seen are shorter than the picture's."""
    taught_by: ClassVar[tuple[type[Corruption], ...]]
    """Corruptions by which tokenizers learn to undo it."""
    has_known: ClassVar[bool] = True
    """Whether what is seen without noise is some of the picture, which `kept` puts back."""
    keeps: ClassVar[bool] = False
    """Whether that is done where nobody says otherwise."""

    @abstractmethod
    def __call__(self, images: Images) -> Seen:
        """A(x): what is seen of images in [-1, 1], without the noise."""

    @abstractmethod
    def lifted(self, seen: Seen) -> Images:
        """As an encoder is shown it: an image of the picture's sides and channels."""

    def read(self, pictures: Images) -> Seen:
        """What was seen, of pictures that are damaged already."""
        return self(pictures)

    def kept(self, images: Images, seen: Seen) -> Images:
        """Images of which A gives what is seen, near those that are given; where A cannot be
        undone, those.
        """
        return images

    def drawn(self, images: Images, chance: Generators) -> Seen:
        """What is seen, with its noise, of which each image has its generator."""
        seen = self(images)
        if not self.noise:
            return seen
        return seen + self.noise * gaussian(seen.shape[1:], chance, seen.device).to(seen)


@dataclass(frozen=True)
class Denoise(Measurement):
    """All of the picture, with noise."""

    noise: float = 0.5
    """Standard deviation of its normal noise, of images in [-1, 1]: 127.5 times it of 8 bits."""

    taught_by = (GaussianNoise,)
    has_known = False

    def __post_init__(self) -> None:
        if not 0 < self.noise < math.inf:
            raise ValueError(f"task.noise is {self.noise}: it must be positive and finite")

    def __call__(self, images: Images) -> Seen:
        """The picture."""
        return images

    def lifted(self, seen: Seen) -> Images:
        """The same."""
        return seen


@dataclass(frozen=True)
class Deblur(Measurement):
    """The picture out of focus, by a Gaussian kernel."""

    sigma: float = 1.5
    """Standard deviation of the kernel in pixels."""
    noise: float = 0.02
    """Of its noise, of images in [-1, 1]: 8 bits alone make 0.002."""

    taught_by = (Blur,)
    has_known = False

    def __post_init__(self) -> None:
        check_noise(self.noise)
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"task.sigma is {self.sigma}: it must be positive and finite")

    def __call__(self, images: Images) -> Seen:
        """Blurred."""
        return blurred(images, self.sigma)

    def read(self, pictures: Images) -> Seen:
        """As they are: they are blurred."""
        return pictures

    def lifted(self, seen: Seen) -> Images:
        """The same."""
        return seen


@dataclass(frozen=True)
class SuperResolve(Measurement):
    """A smaller picture, each pixel the mean of those that it covers."""

    factor: int = 4
    """By which its sides are shorter."""
    noise: float = 0.0
    """Of its noise, of images in [-1, 1]."""

    taught_by = (Downsampling,)

    def __post_init__(self) -> None:
        check_noise(self.noise)
        if self.factor < 2:
            raise ValueError(f"task.factor is {self.factor}: it must be 2 or more")

    @property
    def shrinks(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The factor."""
        return self.factor

    def __call__(self, images: Images) -> Seen:
        """Means of blocks."""
        return averaged(images, self.factor)

    def read(self, pictures: Images) -> Seen:
        """As they are: they are small."""
        return pictures

    def lifted(self, seen: Seen) -> Images:
        """Enlarged by the bicubic rule."""
        return enlarged(seen, [side * self.factor for side in seen.shape[-2:]])

    def kept(self, images: Images, seen: Seen) -> Images:
        """Each block moved by what its mean lacks: the nearest images of these means (back
        projection, Irani & Peleg 1991, by the pseudo-inverse).
        """
        lacks = seen - self(images)
        return images + lacks.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


@dataclass(frozen=True)
class Colourise(Measurement):
    """The picture's luma (ITU-R 601), without its colours."""

    noise: float = 0.0
    """Of its noise, of images in [-1, 1]."""

    taught_by = (Grey,)
    keeps = True

    def __post_init__(self) -> None:
        check_noise(self.noise)

    def __call__(self, images: Images) -> Seen:
        """Luma, one channel.

        Raises:
            ValueError: the images have no colours.
        """
        if images.shape[1] != 3:
            raise ValueError(
                f"task:colourise is for tokenizers of RGB, and this one's images have "
                f"{images.shape[1]} channels"
            )
        return luma(images)

    def lifted(self, seen: Seen) -> Images:
        """Three channels that are alike."""
        return seen.expand(-1, 3, -1, -1)

    def kept(self, images: Images, seen: Seen) -> Images:
        """All channels moved alike by what the luma lacks, so that their differences, which are the
        colour, stay.
        """
        return images + seen - self(images)


@dataclass(frozen=True, eq=False)
class Uncover(Measurement):
    """The picture but for what is hidden; of a tensor that says where."""

    hidden: Float[Tensor, "#b 1 H W"]
    """1 where nothing is seen, 0 elsewhere."""
    noise: float = 0.0
    value: float | None = None
    """What hidden pixels are shown to an encoder as, of images in [-1, 1]. None: a smooth
    continuation of what is around them."""

    taught_by = (HiddenBox, HiddenPatches, Masking)
    keeps = True

    def __call__(self, images: Images) -> Seen:
        """The picture, 0 where nothing is seen."""
        return images * (1 - self.hidden.to(images))

    def lifted(self, seen: Seen) -> Images:
        """Where nothing is seen a continuation of what is, or one value."""
        return filled(seen, self.hidden.to(seen.device), self.value)

    def kept(self, images: Images, seen: Seen) -> Images:
        """The pixels that are seen, put back."""
        return torch.where(self.hidden.to(seen.device) > 0, images, seen)


def check_noise(noise: float) -> None:
    """Refuse a deviation that is none.

    Raises:
        ValueError: it is below 0, or not finite.
    """
    if not 0 <= noise < math.inf:
        raise ValueError(f"task.noise is {noise}: it must be 0 or more, and finite")
