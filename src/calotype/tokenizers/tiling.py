"""Pictures larger than memory, in tiles without seams.

A tile that is computed alone differs from the same part of the whole in three ways. Convolutions
meet zeros at its border: a margin around it is computed too, and thrown away. Group norms divide by
what they see, and attention looks at what it sees: here all tiles see the same, small windows from
all over the picture, which went through the network together before. So neighbouring tiles agree
about what they share, and nothing has to be blended.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import diffusers

Run = Callable[[Tensor], Tensor]

WINDOW = 16
"""Sites a side of the windows."""
FEWEST = 8
"""Windows along each axis at least, which only tiny tiles would have fewer of."""


@dataclass(frozen=True)
class Tiling:
    """How a picture is taken in parts; sides are in sites of the latent.

    Raises:
        ValueError: a number is not possible.
    """

    size: int = 64
    """Sites a side of what a tile adds to the picture. Memory grows with its square."""
    margin: int = 8
    """Sites around it that are computed too, as far as convolutions see more than rounding."""
    looked_at: int = 4096
    """Sites of the windows that attention looks at from each of a tile's."""

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("margin", 0), ("looked_at", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"tiling.{name} is {value}: it must be at least {least}")


class Span(NamedTuple):
    """A tile along one axis, in sites."""

    first: int
    last: int
    """What it adds: from the first to before the last."""
    begin: int
    end: int
    """What is computed for that."""


class Tile(NamedTuple):
    """A part of a picture."""

    rows: Span
    columns: Span

    def outer(self, x: Tensor, scale: int) -> Tensor:
        """What is computed, of a tensor of the whole with `scale` elements to a site."""
        (_, _, top, bottom), (_, _, left, right) = self
        return x[..., scale * top : scale * bottom, scale * left : scale * right]

    def inner(self, x: Tensor) -> Tensor:
        """What the tile adds, of a tensor of what was computed."""
        scale = x.shape[-1] // (self.columns.end - self.columns.begin)
        parts = [slice(scale * (s.first - s.begin), scale * (s.last - s.begin)) for s in self]
        return x[..., parts[0], parts[1]]

    def place(self, x: Tensor, scale: int) -> Tensor:
        """Where in the whole that is."""
        (top, bottom, *_), (left, right, *_) = self
        return x[..., scale * top : scale * bottom, scale * left : scale * right]


@torch.no_grad()
def tiled(
    run: Run, network: nn.Module, x: Float[Tensor, "b c H W"], scale: int, tiling: Tiling
) -> Float[Tensor, "b d h w"]:
    """What `run` makes of x, tile by tile, in memory that depends on a tile's size alone, beside x
    and the result; where a tile is as large as x, just that.

    Args:
        run: Calls the network; of x or a part of it.
        network: Whose norms and attention are to see the whole.
        x: Latents, or images.
        scale: Elements of x to a site: 1, or a tokenizer's factor.
        tiling: How.
    """
    height, width = (side // scale for side in x.shape[-2:])
    if max(height, width) <= tiling.size + tiling.margin:
        return run(x)
    return torch.cat([_one(run, network, image[None], scale, tiling) for image in x])


def _one(
    run: Run, network: nn.Module, x: Float[Tensor, "1 c H W"], scale: int, tiling: Tiling
) -> Float[Tensor, "1 d h w"]:
    overview, (height, width) = Overview(tiling), (side // scale for side in x.shape[-2:])
    with overview.given_to(network):
        overview.glance(run, x, scale)
        whole = x.new_empty(0)
        for tile in _tiles(height, width, tiling):
            part = run(tile.outer(x, scale))
            out = part.shape[-1] // (tile.columns.end - tile.columns.begin)
            if not len(whole):
                shape = 1, part.shape[1], out * height, out * width
                whole = part.new_empty(shape, device=x.device)
            tile.place(whole, out).copy_(tile.inner(part))
    return whole


def _tiles(height: int, width: int, tiling: Tiling) -> Iterator[Tile]:
    for spans in product(_spans(height, tiling), _spans(width, tiling)):
        yield Tile(*spans)


def _spans(length: int, tiling: Tiling) -> list[Span]:
    """Tiles of nearly one size along a side."""
    count, margin = -(-length // tiling.size), tiling.margin
    edges = [length * i // count for i in range(count + 1)]
    return [Span(a, b, max(0, a - margin), min(length, b + margin)) for a, b in pairwise(edges)]


class Overview:
    """What the norms and the attention of a network see of a whole picture.

    Args:
        tiling: Says how much may be looked at.
    """

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        self.norms = self.upsamplers = 0
        self.window: Tile | None = None
        """Of the windows that are on their way, as large as they are by now."""

    @contextmanager
    def given_to(self, network: nn.Module) -> Iterator[None]:
        """While it is entered, the network's norms and attention see what `glance` saw."""
        was = {module: module.__dict__.get("forward") for module in network.modules()}
        attention = diffusers.models.attention_processor.Attention
        try:
            for module in was:
                if isinstance(module, nn.GroupNorm):
                    self.norms += 1
                    _call(module, SharedNorm(module, self))
                elif isinstance(module, attention) and module.group_norm is not None:
                    _call(module, partial(self._attended, module, module.forward))
                elif isinstance(module, diffusers.models.upsampling.Upsample2D):
                    self.upsamplers += 1
                    _call(module, partial(self._narrowed, module.forward))
            yield
        finally:
            for module, forward in was.items():
                if forward is not None:
                    _call(module, forward)
                else:
                    module.__dict__.pop("forward", None)

    def glance(self, run: Run, x: Float[Tensor, "1 c H W"], scale: int) -> None:
        """Look at windows from all over the picture at once, in no more memory than a tile takes.

        Of a decoder they shrink before each upsampling, so that there may be many, and what met
        their borders is gone.
        """
        if not self.norms:
            return
        sides = [side // scale for side in x.shape[-2:]]
        side, outer = min(WINDOW, *sides), self.tiling.size + 2 * self.tiling.margin
        # A decoder's first layers have up to four times the channels of its last.
        pixels = outer**2 * (4**self.upsamplers // 4 if self.upsamplers else 1)
        many = max(FEWEST, math.isqrt(pixels // side**2))
        starts = [[(length - side) * i // (many - 1) for i in range(many)] for length in sides]
        windows = [Tile(*(Span(at, at + side, at, at + side) for at in places))
                   for places in product(*starts)]  # fmt: skip
        self.window = _window(side)
        run(torch.cat([window.outer(x, scale) for window in windows]))
        self.window = None

    def _narrowed(
        self, own: Callable[..., Tensor], x: Tensor, *options: Any, **named: Any
    ) -> Tensor:
        """Of windows, the middle of what is upsampled."""
        if self.window is not None:
            side = self.window.rows.end
            cut, scale = side // 4, x.shape[-1] // side
            kept = slice(scale * cut, scale * (side - cut))
            x, self.window = x[..., kept, kept], _window(side - 2 * cut)
        return own(x, *options, **named)

    def _attended(
        self, attention: Any, own: Callable[..., Tensor], x: Tensor, **options: Any
    ) -> Tensor:
        """Of a tile, the sites of the windows."""
        if self.window is not None:
            return own(x, **options)
        seen = attention.group_norm.forward.seen.expand(len(x), -1, -1)
        return own(x, **{**options, "encoder_hidden_states": seen})


class SharedNorm:
    """A group norm that divides by what windows showed of a whole picture.

    Args:
        norm: Its weights.
        overview: Says what is on its way: windows, or a tile.
    """

    def __init__(self, norm: nn.GroupNorm, overview: Overview) -> None:
        self.norm, self.overview = norm, overview
        self.mean = self.variance = torch.zeros(())
        self.seen = torch.zeros(())
        """Where attention reads what comes out, that at the sites of the windows, [1 n c]."""

    def __call__(self, x: Float[Tensor, "b c *sites"]) -> Float[Tensor, "b c *sites"]:
        """The normalised input."""
        if (window := self.overview.window) is None:
            return self.normalised(x)
        flat = x.ndim == 3  # as attention has it
        inner = window.inner(_unflattened(x, window) if flat else x)
        self.look(inner)
        if flat:
            sites = self.normalised(inner).movedim(1, -1).flatten(0, 2)[None]
            self.seen = sites[:, :: -(-sites.shape[1] // self.overview.tiling.looked_at)]
        return self.normalised(x)

    def look(self, x: Float[Tensor, "b c h w"]) -> None:
        """Take its statistics for those of the whole picture."""
        groups = x.float().unflatten(1, (self.norm.num_groups, -1)).transpose(0, 1).flatten(1)
        self.variance, self.mean = torch.var_mean(groups, 1, correction=0)

    def normalised(self, x: Float[Tensor, "b c *sites"]) -> Float[Tensor, "b c *sites"]:
        """By the statistics that were taken."""
        norm, each = self.norm, x.shape[1] // self.norm.num_groups
        scale = (self.variance + norm.eps).rsqrt().repeat_interleave(each)
        shift = -self.mean.repeat_interleave(each) * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        sides = (1,) * (x.ndim - 2)
        return torch.addcmul(shift.to(x).view(-1, *sides), x, scale.to(x).view(-1, *sides))


def _call(module: Any, forward: Callable[..., Tensor]) -> None:
    """Let a module do something else when it is called."""
    module.forward = forward


def _window(side: int) -> Tile:
    """A square of which what is near the border does not count."""
    span = Span(side // 6, side - side // 6, 0, side)
    return Tile(span, span)


def _unflattened(x: Float[Tensor, "b c n"], tile: Tile) -> Float[Tensor, "b c h w"]:
    sides = [span.end - span.begin for span in tile]
    scale = math.isqrt(x.shape[2] // (sides[0] * sides[1]))
    return x.unflatten(2, [scale * side for side in sides])
