"""The discrete VAE of DALL-E (Ramesh et al. 2021, section 2.1 and appendix A.2)."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.annealed import check_temperature
from calotype.tokenizers.bottlenecks.base import Latent
from calotype.tokenizers.bottlenecks.discrete import Discrete, OfCodes, straight_through, vq_model
from calotype.tokenizers.bottlenecks.search import assign, look_up, sites
from calotype.training.noise import Generators
from calotype.training.schedules import Cosine, Schedule

FIRST_NORM = 5.0
"""Of every code. Features of a fresh encoder have a root mean square near 0.2, so that their logits
begin with a standard deviation near 1: neither so flat that all codes are mixed alike, nor sure."""


@dataclass(frozen=True)
class Relaxed:
    """The decoder reads a mixture of codes (Jang et al. 2017, section 2.1)."""

    def mixture(self, y: Float[Tensor, "b h w k"]) -> Float[Tensor, "b h w k"]:
        """The sample as it is."""
        return y

    def bits(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The sample as it is."""
        return y


@dataclass(frozen=True)
class Hard:
    """The decoder reads one code, and its gradient goes to the mixture (Jang et al. 2017, section
    2.2: straight-through Gumbel-softmax).
    """

    def mixture(self, y: Float[Tensor, "b h w k"]) -> Float[Tensor, "b h w k"]:
        """The sample's largest weight becomes 1."""
        return straight_through(y, functional.one_hot(y.argmax(-1), y.shape[-1]).to(y))

    def bits(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What is above a half becomes 1, the rest 0."""
        return straight_through(y, (y > 0.5).to(y))


@dataclass(frozen=True)
class Gumbel(OfCodes):
    """A dVAE: at each site a distribution over codes, of which training draws a relaxed sample.

    Raises:
        ValueError: a number is not possible.
    """

    codes: int = 8192
    """That each site has a distribution over."""
    channels: int = 128
    """Channels of z."""
    features: int | None = None
    """Channels between encoder and `quant_conv`, and behind `post_quant_conv`; None: a code's."""
    temperature: Schedule = field(default_factory=lambda: Cosine(1.0, 1 / 16, 150_000))
    """Of the relaxation; what is trained at a high one cannot be decoded from single codes."""
    kl_weight: Schedule = field(default_factory=lambda: Cosine(0.0, 6.6, 5_000))
    """Weight of the Kullback-Leibler divergence to uniform codes, in nats per image, once the whole
    loss is divided by the image's C*H*W: the published beta. It is meant for a likelihood, such as
    `LogitLaplace`."""
    estimator: Relaxed | Hard = field(default_factory=Relaxed)
    """What the decoder reads in training."""

    def __post_init__(self) -> None:
        for name, least in (("codes", 2), ("channels", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"bottleneck.{name} is {value}: choose {least} or more")
        check_temperature(self.temperature)
        if not self.kl_weight.least >= 0:
            raise ValueError(
                f"bottleneck.kl_weight reaches {self.kl_weight.least}: it must be 0 or more"
            )

    def build(self) -> "GumbelBottleneck":
        """Make the bottleneck."""
        return GumbelBottleneck(self)

    def autoencoder(self, **settings: Any) -> "diffusers.VQModel":
        """A stock VQModel around it."""
        return vq_model(self.channels, self.features, self.codes, **settings)


class GumbelBottleneck(Discrete):
    """Draws mixtures of codes in training, and takes the likeliest afterwards; float32 throughout.

    The published encoder ends, and the decoder begins, with a matrix of its own between features
    and codes. Here both are the codebook, with logits x.e - |e|^2 / 2: the likeliest code is the
    nearest, so that a stock VQModel finds it.
    """

    def __init__(self, spec: Gumbel) -> None:
        super().__init__(spec.channels, spec.codes)
        self.spec = spec
        self.remedy = "let bottleneck.kl_weight end higher, or choose fewer codes"
        # On a sphere, so that no code is likelier than others for its norm.
        directions = functional.normalize(torch.randn(spec.codes, spec.channels), dim=1)
        self.codebook = nn.Parameter(FIRST_NORM * directions)
        self.step_begin(0)

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """A relaxed sample in training, the nearest codes in evaluation; the rate `kl` is the
        divergence of the codes' distribution from a uniform one, summed over sites.
        """
        with torch.autocast(h.device.type, enabled=False):
            x = self.own(h)
            logits = self.logits(x)
            if self.training:
                ids, z = logits.argmax(-1), self.sample(logits, generator)
                self.observe(ids)
            else:
                ids = self.find(x)
                z = self.embed(ids)
            return Latent(self.out(z), ids, {"kl": self.kl_weight * to_uniform(logits)})

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w k"]:
        """Unnormalised log-probabilities of the codes."""
        half = self.codebook.square().sum(1) / 2
        return torch.addmm(half, sites(x), self.codebook.T, beta=-1).unflatten(
            0, (len(x), *x.shape[2:])
        )

    def sample(
        self, logits: Float[Tensor, "b h w k"], generator: Generators | None
    ) -> Float[Tensor, "b c h w"]:
        """Mixtures of codes, at the present temperature (Jang et al. 2017, eq. 2)."""
        y = ((logits + gumbel_noise(logits, generator)) / self.temperature).softmax(-1)
        return (self.spec.estimator.mixture(y) @ self.codebook).movedim(-1, 1)

    def find(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
        """The likeliest code of each site, which is the nearest."""
        return assign(x, self.codebook)

    def embed(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """Look codes up."""
        return look_up(ids, self.codebook)

    def step_begin(self, step: int) -> None:
        """Follow the schedules."""
        super().step_begin(step)
        self.temperature = self.spec.temperature.at(step)
        self.kl_weight = self.spec.kl_weight.at(step)
        self.metrics |= {
            # Filled there: a number that is copied to a device waits for it.
            "temperature": self.shift.new_full((), self.temperature),
            "kl_weight": self.shift.new_full((), self.kl_weight),
        }


def to_uniform(logits: Float[Tensor, "b *sites k"]) -> Float[Tensor, " b"]:
    """Kullback-Leibler divergence of softmax(logits) from the uniform distribution, in nats per
    image: log k less the entropy, summed over sites.
    """
    log_q = logits.log_softmax(-1)
    divergence = (log_q.exp() * log_q).sum(-1) + math.log(logits.shape[-1])
    return divergence.flatten(1).sum(1)


def gumbel_noise(
    like: Float[Tensor, "b h w k"], generator: Generators | None
) -> Float[Tensor, "b h w k"]:
    """Standard Gumbel noise, drawn for each sample by itself."""
    noise = torch.empty_like(like)
    if generator is None:
        return noise.exponential_().log_().neg_()
    for sample, own in zip(noise, generator, strict=True):
        beside = own if sample.device == own.device else reseeded(sample.device, own)
        sample.exponential_(generator=beside)
    return noise.log_().neg_()


def reseeded(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on another device, seeded by a sample's own: of codes by the thousand at every
    site, noise drawn on the CPU would take longer than the rest of a step.
    """
    seed = torch.randint(2**63 - 1, (), generator=generator)
    return torch.Generator(device).manual_seed(int(seed))
