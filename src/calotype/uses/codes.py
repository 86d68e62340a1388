"""What each code of a tokenizer looks like, and where it is used."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.training.images import Pixels, scaled


@dataclass(frozen=True)
class Code:
    """One code, by the pictures that were read."""

    code: int
    part: float
    """Of all sites, those that it is at."""
    mean: Float[Tensor, "c f f"]
    """The mean of the pixels that are under it, in [-1, 1]."""
    examples: Float[Tensor, "e c f f"]
    """Some of these, of different pictures."""
    where: Float[Tensor, "h w"]
    """Parts of its sites that are there; their sum is 1."""


def commonest(
    ids: Int[Tensor, "n h w"], images: Pixels, count: int, examples: int = 4
) -> list[Code]:
    """The codes that are used most, the commonest first, of one codebook.

    Args:
        ids: Codes of pictures, as `ImageTokenizer.encode_ids` gives; of several codebooks those of
            one, `ids[:, book]`.
        images: The pictures, whose sides are multiples of the latents'.
        count: How many codes, at most; what is never used is not among them.
        examples: Of each code, at most.
    """
    values, counts = np.unique(ids.numpy(), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:count]
    return [_told(int(values[place]), ids, images, examples) for place in order]


def _told(code: int, ids: Int[Tensor, "n h w"], images: Pixels, examples: int) -> Code:
    there = ids == code
    picture, row, column = there.nonzero(as_tuple=True)
    side = images.shape[-1] // ids.shape[-1]
    inside = torch.arange(side)
    rows, columns = row[:, None] * side + inside, column[:, None] * side + inside
    # Advanced places on both sides of the channels: these come last.
    under = images[picture[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    patches = scaled(under.movedim(-1, 1))
    first = np.unique(picture.numpy(), return_index=True)[1][:examples]
    where = there.float().mean(0)
    part = where.mean().item()
    return Code(code, part, patches.mean(0), patches[torch.from_numpy(first)], where / where.sum())
