"""Pictures larger than memory, in tiles without seams.

A tile that is computed alone differs from the same part of the whole in three ways. Convolutions
meet zeros at its border: a margin around it is computed too, and thrown away. Group norms divide by
what they see, and attention looks at what it sees: here both see the whole picture, norms by
statistics that were gathered of all tiles before, attention by sites taken evenly from all of it.
So neighbouring tiles agree about what they share, and nothing has to be blended.
"""

import math
from collections.abc import Callable, Iterable, Iterator
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

WINDOW, SMALL_WINDOW = 48, 16
"""Sites a side of what a first look takes: where resolution grows, windows shrink as it does."""
BESIDE = 4
"""Sites around a tile that are enough to gather statistics."""


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
    rounds: int = 1
    """How often all tiles are passed over to gather statistics before the picture is made of them;
    0: the few of a first look stand. Each costs as much as the picture itself."""
    looked_at: int = 4096
    """Sites of the whole picture that attention looks at from each of its own."""

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("margin", 0), ("rounds", 0), ("looked_at", 1)):
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
    height, width = (side // scale for side in x.shape[-2:])
    overview = Overview(max(1, math.isqrt(height * width // tiling.looked_at)))
    with overview.given_to(network):
        if overview.norms:
            overview.glance(run, x, scale, tiling.size + 2 * tiling.margin)
        for _ in range(tiling.rounds if overview.norms else 0):
            overview.gathering = True
            for overview.tile in _tiles(height, width, tiling.size, min(tiling.margin, BESIDE)):
                run(overview.tile.outer(x, scale))
            overview.take()
        return _assembled(run, x, scale, _tiles(height, width, tiling.size, tiling.margin))


def _assembled(run: Run, x: Tensor, scale: int, tiles: Iterable[Tile]) -> Float[Tensor, "1 d h w"]:
    whole = x.new_empty(0)
    for tile in tiles:
        part = run(tile.outer(x, scale))
        out = part.shape[-1] // (tile.columns.end - tile.columns.begin)
        if not len(whole):
            sides = [out * (side // scale) for side in x.shape[-2:]]
            whole = part.new_empty((1, part.shape[1], *sides), device=x.device)
        tile.place(whole, out).copy_(tile.inner(part))
    return whole


def _tiles(height: int, width: int, size: int, margin: int) -> Iterator[Tile]:
    for spans in product(_spans(height, size, margin), _spans(width, size, margin)):
        yield Tile(*spans)


def _spans(length: int, size: int, margin: int) -> list[Span]:
    """Tiles of nearly one size along a side."""
    count = -(-length // size)
    edges = [length * i // count for i in range(count + 1)]
    return [Span(a, b, max(0, a - margin), min(length, b + margin)) for a, b in pairwise(edges)]


class Overview:
    """What the norms and the attention of a network see of a whole picture.

    Args:
        stride: Of the sites that attention looks at.
    """

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.norms: list[SharedNorm] = []
        self.tile: Tile | None = None
        """The one that is computed."""
        self.gathering = self.glancing = False
        self.upsamplers = 0

    @contextmanager
    def given_to(self, network: nn.Module) -> Iterator[None]:
        """While it is entered, the network's norms and attention see what was gathered."""
        was = {module: module.__dict__.get("forward") for module in network.modules()}
        Attention = diffusers.models.attention_processor.Attention
        try:
            for module in was:
                if isinstance(module, nn.GroupNorm):
                    self.norms.append(SharedNorm(module, self))
                    module.forward = self.norms[-1]
                elif isinstance(module, Attention) and module.group_norm is not None:
                    module.forward = partial(self._attended, module, module.forward)
                elif isinstance(module, diffusers.models.upsampling.Upsample2D):
                    self.upsamplers += 1
                    module.forward = partial(self._narrowed, module.forward)
            yield
        finally:
            for module, forward in was.items():
                if forward is not None:
                    module.forward = forward
                else:
                    module.__dict__.pop("forward", None)

    def glance(self, run: Run, x: Tensor, scale: int, outer: int) -> None:
        """Look at windows from all over the picture at once, in no more memory than a tile takes.

        Of a decoder they shrink before each upsampling, so that there may be many, and what met
        their borders is gone.
        """
        sides = [side // scale for side in x.shape[-2:]]
        side = min(WINDOW if self.upsamplers else SMALL_WINDOW, *sides)
        # A decoder's first layers have up to four times the channels of its last.
        pixels = outer**2 * (4**self.upsamplers / 4 if self.upsamplers else 1)
        many = max(1, math.isqrt(int(pixels / side**2)))
        starts = [[(length - side) * i // max(1, many - 1) for i in range(many)]
                  for length in sides]  # fmt: skip
        windows = [Tile(*(Span(at, at + side, at, at + side) for at in places))
                   for places in product(*starts)]  # fmt: skip
        self.tile, self.gathering, self.glancing = _window(side), True, True
        run(torch.cat([window.outer(x, scale) for window in windows]))
        self.gathering = self.glancing = False

    def _narrowed(
        self, own: Callable[..., Tensor], x: Tensor, *options: Any, **named: Any
    ) -> Tensor:
        """In a first look, the middle of what is upsampled."""
        if self.glancing:
            assert self.tile is not None
            side = self.tile.rows.end
            cut, self.tile = side // 4, _window(side - 2 * (side // 4))
            scale = x.shape[-1] // side
            x = x[..., scale * cut : scale * (side - cut), scale * cut : scale * (side - cut)]
        return own(x, *options, **named)

    def take(self) -> None:
        """From now on see what was gathered."""
        self.gathering = False
        for norm in self.norms:
            norm.take()

    def _attended(
        self, attention: Any, own: Callable[..., Tensor], x: Tensor, **options: Any
    ) -> Tensor:
        shared = attention.group_norm.forward
        if self.glancing or shared.sites is None:
            return own(x, **options)
        seen = shared.normalised(shared.sites).transpose(1, 2).expand(len(x), -1, -1)
        return own(x, **{**options, "encoder_hidden_states": seen})


class SharedNorm:
    """A group norm that divides by what was gathered of a whole picture.

    Args:
        norm: Its weights.
        overview: Says what is gathered.
    """

    def __init__(self, norm: nn.GroupNorm, overview: Overview) -> None:
        self.norm, self.overview = norm, overview
        self.mean = self.variance = torch.zeros(())
        self.sites: Tensor | None = None
        """Where attention reads what comes out: inputs at the sites that it looks at, [1 c n]."""
        self._begin()

    def _begin(self) -> None:
        self.elements, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())
        self.found: list[Tensor] = []

    def __call__(self, x: Float[Tensor, "b c *sites"]) -> Float[Tensor, "b c *sites"]:
        """The normalised input."""
        if self.overview.gathering:
            self.gather(x)
        if self.overview.glancing:
            self.take()
        return self.normalised(x)

    def gather(self, x: Float[Tensor, "b c *sites"]) -> None:
        """Add a tile's part of the whole."""
        tile = self.overview.tile
        assert tile is not None
        flat = x.ndim == 3  # as attention has it
        inner = tile.inner(_unflattened(x, tile) if flat else x)
        grouped = inner.unflatten(1, (self.norm.num_groups, -1)).transpose(0, 1).flatten(1)
        self.elements += grouped.shape[1]
        self.total = self.total + grouped.sum(1, dtype=torch.float32).double()
        self.squares = self.squares + grouped.float().square().sum(1).double()
        if flat:
            step = 1 if self.overview.glancing else self.overview.stride
            (top, *_), (left, *_) = tile
            some = inner[..., -top % step :: step, -left % step :: step]
            self.found.append(some.transpose(0, 1).flatten(1)[None])

    def take(self) -> None:
        """Use what was gathered."""
        self.mean = self.total / self.elements
        self.variance = (self.squares / self.elements - self.mean.square()).clamp_min(0)
        if self.found:
            self.sites = torch.cat(self.found, 2)
        self._begin()

    def normalised(self, x: Float[Tensor, "b c *sites"]) -> Float[Tensor, "b c *sites"]:
        """By what was taken last."""
        norm, each = self.norm, x.shape[1] // self.norm.num_groups
        scale = (self.variance + norm.eps).rsqrt().float().repeat_interleave(each)
        shift = -self.mean.float().repeat_interleave(each) * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        sides = (1,) * (x.ndim - 2)
        return torch.addcmul(shift.to(x).view(-1, *sides), x, scale.to(x).view(-1, *sides))


def _window(side: int) -> Tile:
    """A square of which what is near the border does not count."""
    span = Span(side // 6, side - side // 6, 0, side)
    return Tile(span, span)


def _unflattened(x: Float[Tensor, "b c n"], tile: Tile) -> Float[Tensor, "b c h w"]:
    sides = [span.end - span.begin for span in tile]
    scale = math.isqrt(x.shape[2] // (sides[0] * sides[1]))
    return x.unflatten(2, [scale * side for side in sides])
