"""Counts of spikes: the Poisson VAE (Vafaii et al. 2024, sections 3 and 4)."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.annealed import Annealed, check_annealed
from calotype.tokenizers.bottlenecks.base import Latent
from calotype.tokenizers.bottlenecks.chance import exponential
from calotype.tokenizers.bottlenecks.discrete import vq_model
from calotype.training.noise import Generators
from calotype.training.schedules import Cosine, Schedule

FIRST_LOG_RATES = -6.0, -2.0
"""Between which the prior's rates begin, in ln counts (Vafaii et al. 2024, appendix)."""
ROOM = 3
"""Counts go up to so many times the largest rate: of a rate of 10, one draw in ten million is above
30."""
LARGEST_GAIN = 20.0
"""Of ln dr, which the divergence takes exp of."""


@dataclass(frozen=True)
class Poisson:
    """Each channel of each site is a count, drawn with rate r * dr: r is the prior's, learnt for
    each channel, and dr what the encoder makes of it. Counts stay small and most of them are 0.

    Raises:
        ValueError: a number is not possible.
    """

    channels: int = 64
    """Channels of z."""
    kl_weight: float = 1.0
    """Weight of the Kullback-Leibler divergence to the prior, in nats per image, once the whole
    loss is divided by the image's C*H*W; 1 beside a likelihood makes an ELBO."""
    temperature: Schedule = field(default_factory=lambda: Cosine(1.0, 0.05, 5_000))
    """Of the relaxed counts in training; what is trained at a high one cannot be decoded from whole
    counts. The published one falls from 1 to 0.05 over the first half of the run."""
    most: int = 30
    """Largest count, at most 255; rates go up to a third of it."""

    def __post_init__(self) -> None:
        check_annealed(self.channels, self.temperature, self.kl_weight)
        if not ROOM <= self.most <= 255:
            raise ValueError(f"bottleneck.most is {self.most}: choose {ROOM} to 255")

    @property
    def inputs(self) -> int:
        """Channels that it is given: ln dr."""
        return self.channels

    def build(self) -> "PoissonBottleneck":
        """Make the bottleneck."""
        return PoissonBottleneck(self)

    def autoencoder(self, **settings: Any) -> "diffusers.VQModel":
        """Encoder and decoder of a stock VQModel around it; no stock class holds its rates."""
        return vq_model(self.channels, None, 1, **settings)


class PoissonBottleneck(Annealed):
    """Counts the arrivals of one unit of time; float32 throughout."""

    def __init__(self, spec: Poisson) -> None:
        super().__init__(spec)
        self.log_rate = nn.Parameter(torch.empty(spec.channels).uniform_(*FIRST_LOG_RATES))
        self.step_begin(0)

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """Relaxed counts in training, whole ones in evaluation, which are its `ids` too; the rate
        `kl` is the closed-form divergence, summed over z.
        """
        with torch.autocast(h.device.type, enabled=False):
            divergence = self.divergence(h)
            arrivals = self._arrivals(self.rates(h), generator)
            whole = (arrivals < 1).sum(1)
            z = whole.float()
            if self.training:
                # An arrival counts as far as it is within the unit of time.
                z = ((1 - arrivals) / self.temperature).sigmoid().sum(1)
            rates = {"kl": self.spec.kl_weight * divergence}
            return Latent(z, whole, rates, divergence=divergence)

    @torch.no_grad()
    def weigh(
        self, h: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
        """Draw whole counts; the prior has the rates r."""
        rates = self.rates(h)
        z = self._whole(rates, generator)
        ratio = z * (self._prior - rates.log()) + rates - self._prior.exp()
        return z, ratio.flatten(1).sum(1)

    def rates(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The posterior's, r * dr."""
        log_rates = self._prior + self._gain(h)
        return log_rates.clamp(-LARGEST_GAIN, math.log(self.spec.most / ROOM)).exp()

    def divergence(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Sum r (1 - dr + dr ln dr), in nats per image (Vafaii et al. 2024, eq. 5). What asks for
        more than the largest rate pays for all that it asks.
        """
        log_gain = self._gain(h)
        gain = log_gain.exp()
        return (self._prior.exp() * (1 - gain + gain * log_gain)).flatten(1).sum(1)

    def mode(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The mean counts, which are the rates: of one below 1 the likeliest count says nothing."""
        return self.rates(h)

    @torch.no_grad()
    def pack(self, h: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
        """Keep counts, those nearest to the mean ones: of digits they are decoded better than drawn
        ones.
        """
        return self.rates(h).round().to(torch.uint8)

    def unpack(
        self, packed: UInt8[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The counts; nothing is drawn."""
        return packed.float()

    @torch.no_grad()
    def sample_prior(
        self, height: int, width: int, generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """Counts by the prior's rates, one latent for each generator."""
        h = self.log_rate.new_zeros(len(generator), self.z_channels, height, width)
        return self._whole(self.rates(h), generator)

    @property
    def _prior(self) -> Float[Tensor, "c 1 1"]:
        return self.log_rate[:, None, None]

    def _gain(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return h.float().clamp(max=LARGEST_GAIN)

    def _whole(
        self, rates: Float[Tensor, "b c h w"], generator: Generators | None
    ) -> Float[Tensor, "b c h w"]:
        return (self._arrivals(rates, generator) < 1).sum(1).float()

    def _arrivals(
        self, rates: Float[Tensor, "b c h w"], generator: Generators | None
    ) -> Float[Tensor, "b most c h w"]:
        """When they come: between two is an exponential time, of mean 1 / rate."""
        waits = exponential(rates[:, None].expand(-1, self.spec.most, -1, -1, -1), generator)
        return waits.cumsum(1) / rates[:, None]
