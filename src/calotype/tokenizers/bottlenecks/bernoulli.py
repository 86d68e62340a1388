"""Bits, with a prior that knows them one by one, or together."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.annealed import Annealed, check_annealed
from calotype.tokenizers.bottlenecks.base import Latent
from calotype.tokenizers.bottlenecks.chance import exponential, logistic
from calotype.tokenizers.bottlenecks.discrete import vq_model
from calotype.tokenizers.bottlenecks.gumbel import Hard, Relaxed
from calotype.tokenizers.bottlenecks.lookup_free import bit_entropy, joint
from calotype.tokenizers.bottlenecks.search import sites
from calotype.training.noise import Generators
from calotype.training.schedules import Cosine, Schedule

MOST_LISTED = 16
"""Bits of a site all of whose 65,536 values can be listed for each site of a batch."""


@dataclass(frozen=True)
class Factorised:
    """Bits are independent; how often each is 1 is learnt."""

    def check(self, channels: int) -> None:
        """Any number will do."""

    def build(self, channels: int) -> "FactorisedPrior":
        """Make it."""
        return FactorisedPrior(channels)


@dataclass(frozen=True)
class RBM:
    """A restricted Boltzmann machine (Smolensky 1986), the classical half of the quantum VAE
    (Khoshaman et al. 2018): bits of a site depend on each other by way of hidden ones. It is
    normalised by listing all values, so that the bound is exact, and so are its gradients.
    """

    hidden: int = 16
    """Hidden bits."""

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"bottleneck.prior.hidden is {self.hidden}: it must be at least 1")

    def check(self, channels: int) -> None:
        """Refuse more bits than can be listed.

        Raises:
            ValueError: there are more than 16.
        """
        if channels > MOST_LISTED:
            raise ValueError(
                f"bottleneck.channels is {channels}, and an RBM is normalised by listing all 2 ** "
                f"{channels} values of a site: choose {MOST_LISTED} or fewer, or prior:factorised"
            )

    def build(self, channels: int) -> "RBMPrior":
        """Make it."""
        return RBMPrior(channels, self.hidden)


@dataclass(frozen=True)
class Bernoulli:
    """Each channel of each site is a bit, of which training draws a relaxed sample: the binary
    concrete distribution (Maddison et al. 2017, section 3.2 and appendix C.3).

    Raises:
        ValueError: a number is not possible.
    """

    channels: int = 10
    """Bits of a site; beside an RBM at most 16."""
    prior: Factorised | RBM = field(default_factory=Factorised)
    """Of the bits of a site; those of several sites are independent."""
    kl_weight: float = 1.0
    """Weight of the Kullback-Leibler divergence to the prior, in nats per image, once the whole
    loss is divided by the image's C*H*W; 1 beside a likelihood makes an ELBO."""
    temperature: Schedule = field(default_factory=lambda: Cosine(1.0, 0.1, 5_000))
    """Of the relaxation; what is trained at a high one cannot be decoded from bits."""
    estimator: Relaxed | Hard = field(default_factory=Relaxed)
    """What the decoder reads in training: numbers between 0 and 1, or bits whose gradient goes to
    these (Bengio et al. 2013)."""

    def __post_init__(self) -> None:
        check_annealed(self.channels, self.temperature, self.kl_weight)
        self.prior.check(self.channels)

    @property
    def inputs(self) -> int:
        """Channels that it is given: the bits' logits."""
        return self.channels

    def build(self) -> "BernoulliBottleneck":
        """Make the bottleneck."""
        return BernoulliBottleneck(self)

    def autoencoder(self, **settings: Any) -> "diffusers.VQModel":
        """Encoder and decoder of a stock VQModel around it; no stock class holds its bits."""
        return vq_model(self.channels, None, 1, **settings)


class FactorisedPrior(nn.Module):
    """Independent bits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(channels))

    def cross_entropy(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """-E ln p of bits that are drawn by logits, in nats."""
        p = logits.sigmoid()
        log_p, log_not = functional.logsigmoid(self.logits), functional.logsigmoid(-self.logits)
        return -(p * log_p + (1 - p) * log_not).sum(1)

    def log_probability(self, bits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Of whole bits, in nats."""
        return functional.logsigmoid((2 * bits - 1) * self.logits).sum(1)

    def sample(
        self, like: Float[Tensor, "b c h w"], generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """Draw bits."""
        return (self.logits[:, None, None] + logistic(like, generator) > 0).to(like)


class RBMPrior(nn.Module):
    """p(z) is in proportion to sum over v of exp(z.a + v.c + z.W v), v the hidden bits."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(channels, hidden))
        self.visible = nn.Parameter(torch.zeros(channels))
        self.hidden = nn.Parameter(torch.zeros(hidden))

    def log_probabilities(self) -> Float[Tensor, " values"]:
        """Of all values of a site, in nats; the first bit is the least significant."""
        return self.negative_energies(values(len(self.visible)).to(self.visible)).log_softmax(0)

    def negative_energies(self, bits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Ln p but for the normalisation, hidden bits summed out."""
        return bits @ self.visible + functional.softplus(self.hidden + bits @ self.weight).sum(1)

    def cross_entropy(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """-E ln p of bits that are drawn by logits, in nats: a sum over all values."""
        return -joint(logits) @ self.log_probabilities()

    def log_probability(self, bits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Of whole bits, in nats."""
        places = torch.arange(bits.shape[1], device=bits.device)
        return self.log_probabilities()[(bits.long() << places).sum(1)]

    def sample(
        self, like: Float[Tensor, "b c h w"], generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """Draw bits of each site."""
        each = self.log_probabilities()
        b, c, h, w = like.shape
        # The first of exponential clocks: of rate p it is value k with probability p_k.
        clocks = exponential(like.new_empty(b, h, w, len(each)), generator).log() - each
        return values(c).to(like)[clocks.argmin(-1)].movedim(-1, 1)


class BernoulliBottleneck(Annealed):
    """Bits from logits; float32 throughout."""

    def __init__(self, spec: Bernoulli) -> None:
        super().__init__(spec)
        self.prior = spec.prior.build(spec.channels)
        self.step_begin(0)

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """Relaxed bits in training, whole ones in evaluation; `ids` are whole. The rate `kl` is the
        divergence of the bits, exact whatever was drawn, summed over z.
        """
        with torch.autocast(h.device.type, enabled=False):
            logits = h.float()
            noisy = logits + logistic(logits, generator)
            whole = (noisy > 0).float()
            z = whole
            if self.training:
                z = self.spec.estimator.bits((noisy / self.temperature).sigmoid())
            divergence = self.divergence(logits)
            rates = {"kl": self.spec.kl_weight * divergence}
            return Latent(z, whole.long(), rates, divergence=divergence)

    @torch.no_grad()
    def weigh(
        self, h: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
        """Draw whole bits."""
        logits = h.float()
        z = (logits + logistic(logits, generator) > 0).float()
        log_q = functional.logsigmoid((2 * z - 1) * logits).flatten(1).sum(1)
        log_p = self.prior.log_probability(sites(z)).unflatten(0, (len(z), -1)).sum(1)
        return z, log_p - log_q

    def divergence(self, logits: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """KL(q || p) in nats per image."""
        points = sites(logits)
        each = self.prior.cross_entropy(points) - bit_entropy(points).sum(1)
        return each.unflatten(0, (len(logits), -1)).sum(1)

    def mode(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The likeliest bits."""
        return self.unpack(self.pack(h))

    def pack(self, h: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
        """The likeliest bits."""
        return (h > 0).to(torch.uint8)

    def unpack(
        self, packed: UInt8[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The bits; nothing is drawn."""
        return packed.float()

    @torch.no_grad()
    def sample_prior(
        self, height: int, width: int, generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """Bits by the prior, one latent for each generator."""
        like = next(self.parameters()).new_empty(len(generator), self.z_channels, height, width)
        return self.prior.sample(like, generator)

    def latent_state(self) -> dict[str, Tensor]:
        """Nothing: the prior decides on no latent."""
        return {}


def values(bits: int) -> Int[Tensor, "values bits"]:
    """All values of so many bits, in order; the first is the least significant."""
    return torch.arange(2**bits)[:, None] >> torch.arange(bits) & 1
