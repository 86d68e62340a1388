"""Where text and image tokens stand: in one vocabulary, and in one sequence.

The vocabulary is the text tokenizer's, then begin-of-image, then the codes of each codebook. A
sequence is a prompt, begin-of-image, and the image, site by site along its rows, with the codes of
a site one after another. The null prompt of guidance is begin-of-image alone: that is what
transformers' `generate(guidance_scale=...)` takes for it unless told otherwise.

Where images have several shapes, each has a begin-of-image of its own, which so names the shape
before the first site; how many tokens follow is known from it. Nothing stands between rows: a token
that ended them would be drawn like any other, by the stock `generate()` where no row ends too.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int, Integer
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Layout:
    """A joint vocabulary, and the grid that an image's tokens fill, of several perhaps."""

    text: int
    """Tokens of text; begin-of-image is the next, of each shape one."""
    codes: int
    """Of a codebook."""
    codebooks: int
    """Codes of a site."""
    height: int
    """Sites from top to bottom."""
    width: int
    """Sites from left to right."""
    grids: tuple[tuple[int, int], ...] = ()
    """Heights and widths of all images, the usual first; (): they are of one shape."""

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths of all images, the usual first."""
        return self.grids or ((self.height, self.width),)

    def of(self, height: int, width: int) -> "Layout":
        """The same vocabulary, and the sequence of images of one of the shapes.

        Raises:
            ValueError: it is none of them.
        """
        if (height, width) not in self.shapes:
            known = ", ".join(f"{rows}x{columns}" for rows, columns in self.shapes)
            raise ValueError(f"images of {height}x{width} tokens: the layout has {known}")
        return replace(self, height=height, width=width)

    @property
    def begin(self) -> int:
        """Begin-of-image, of this shape."""
        return self.text + self.shapes.index((self.height, self.width))

    @property
    def first(self) -> int:
        """The first image token."""
        return self.text + len(self.shapes)

    @property
    def vocabulary(self) -> int:
        """All tokens."""
        return self.first + self.codebooks * self.codes

    @property
    def sites(self) -> int:
        """Of an image."""
        return self.height * self.width

    @property
    def length(self) -> int:
        """Tokens of an image."""
        return self.sites * self.codebooks

    @property
    def longest(self) -> int:
        """Tokens of the longest image, of all shapes."""
        return max(height * width for height, width in self.shapes) * self.codebooks

    def flatten(self, ids: Integer[Tensor, "b ..."]) -> Int[Tensor, "b n"]:
        """Codes in the order of the sequence, of ids as a tokenizer packs them: [b, h, w], or
        [b, codebooks, h, w].
        """
        stacked = ids.reshape(len(ids), self.codebooks, self.sites)
        return stacked.transpose(1, 2).reshape(len(ids), self.length).long()

    def unflatten(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b ..."]:
        """Ids as a tokenizer unpacks them."""
        stacked = codes.reshape(len(codes), self.sites, self.codebooks).transpose(1, 2)
        grid = stacked.reshape(len(codes), self.codebooks, self.height, self.width)
        return grid[:, 0] if self.codebooks == 1 else grid

    def tokens(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Tokens of the joint vocabulary for the first n codes of images."""
        place = torch.arange(codes.shape[1], device=codes.device)
        return codes + self.first + place % self.codebooks * self.codes


class Sequences(NamedTuple):
    """Rows that begin at their first token and end in padding, which nothing before it sees."""

    tokens: Int[Tensor, "b length"]
    lengths: Int[Tensor, " b"]
    """Of the prompt: begin-of-image stands there, and the image behind it."""

    def image_places(self, count: int) -> Int[Tensor, "b count"]:
        """Where the model answers what the next image tokens are."""
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)


def sequences(
    layout: Layout,
    prompts: Int[Tensor, "b prompt"],
    lengths: Int[Tensor, " b"],
    image: Int[Tensor, "b n"],
) -> Sequences:
    """Put prompts, of which the first `lengths` tokens count, before images' tokens."""
    n = image.shape[1]
    row = functional.pad(prompts, (0, 1 + n))
    place = torch.arange(row.shape[1], device=row.device) - lengths[:, None]
    behind = image.gather(1, (place - 1).clamp(0, n - 1)) if n else row
    row = torch.where(place > n, 0, torch.where(place > 0, behind, row))
    return Sequences(row.masked_fill(place == 0, layout.begin), lengths)
