"""Finite scalar quantisation (Mentzer et al. 2023)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Latent
from calotype.tokenizers.bottlenecks.discrete import Discrete, OfCodes, straight_through, vq_model
from calotype.training.noise import Generators

MOST_CODES = 2**24
"""A frequency is kept for each."""
INSIDE = 1 - 1e-3
"""Of the way to the outermost levels: how far bounded features go, as published."""


@dataclass(frozen=True)
class FSQ(OfCodes):
    """Every channel is rounded to one of a few levels; no loss is needed to keep codes in use."""

    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Of each channel; their product is the number of codes. Recommended are 5 or more: for about
    2 ** 8 codes (8, 6, 5), for 2 ** 10 (8, 5, 5, 5), for 2 ** 12 (7, 5, 5, 5, 5), for 2 ** 14
    (8, 8, 8, 6, 5), for 2 ** 16 (8, 8, 8, 5, 5, 5) (appendix A.4.1)."""
    features: int | None = None
    """Channels between encoder and `quant_conv`, and behind `post_quant_conv`; None: a code's."""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2 or self.codes > MOST_CODES:
            raise ValueError(
                f"bottleneck.levels is {self.levels}: choose 2 or more for each channel, and no "
                f"more than {MOST_CODES} codes together"
            )

    @property
    def channels(self) -> int:
        """Channels of z."""
        return len(self.levels)

    @property
    def codes(self) -> int:
        """How many there are."""
        return math.prod(self.levels)

    def build(self) -> "ScalarQuantizer":
        """Make the bottleneck."""
        return ScalarQuantizer(self)

    def autoencoder(self, **settings) -> "diffusers.VQModel":
        """A VQModel around it, without its codes: it would not find the same."""
        return vq_model(self.channels, self.features, 1, **settings)


class ScalarQuantizer(Discrete):
    """Bounds each channel and rounds it; float32 throughout, as bfloat16 would leave half of the
    codes without use. The first channel is an id's least significant digit.
    """

    exported = False
    remedy = "choose fewer bottleneck.levels, or train longer"

    def __init__(self, spec: FSQ) -> None:
        super().__init__(spec.channels, spec.codes)
        self.spec = spec
        # A buffer, so that fingerprints tell one grid from another.
        self.register_buffer("levels", torch.tensor(spec.levels))
        self.levels: Tensor

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """The nearest levels, straight through the rounding; there is no penalty."""
        with torch.autocast(h.device.type, enabled=False):
            x = self.bound(self.own(h))
            rounded = x.round()
            ids = self._number(rounded)
            self.observe(ids)
            return Latent(self.out(straight_through(x, rounded) / self._half), ids)

    def find(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
        """The nearest levels, as numbers of mixed radix."""
        with torch.autocast(x.device.type, enabled=False):
            return self._number(self.bound(x).round())

    def embed(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """Levels in [-1, 1]."""
        digits = ids[:, None] // self._radix % self.levels[:, None, None]
        return (digits - self._half) / self._half

    def bound(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Squash channels so that L levels lie one apart and 0 stays about 0 (the listing of
        appendix A.1): from -L/2 to L/2 - 1 for even L, from -(L-1)/2 to (L-1)/2 for odd.
        """
        levels = self.levels[:, None, None]
        reach = (levels - 1) * INSIDE / 2
        offset = (1 - levels % 2) / 2
        return (x + (offset / reach).tan()).tanh() * reach - offset

    @property
    def _half(self) -> Int[Tensor, "c 1 1"]:
        """Levels below 0."""
        return self.levels[:, None, None] // 2

    @property
    def _radix(self) -> Int[Tensor, "c 1 1"]:
        """What a step of each channel adds to an id."""
        return (self.levels.cumprod(0) // self.levels)[:, None, None]

    def _number(self, rounded: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
        return ((rounded.long() + self._half) * self._radix).sum(1)
