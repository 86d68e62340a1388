"""Diagonal-Gaussian bottleneck (Kingma & Welling 2014, section 3 and appendix B)."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import WAIST, Bottleneck, Latent
from calotype.tokenizers.bottlenecks.divergences import Divergence, Drawn, Whole
from calotype.training.noise import Generators, gaussian


@dataclass(frozen=True)
class Gaussian:
    """A continuous latent space, kept near a unit Gaussian."""

    channels: int = 4
    """Channels of z."""
    kl_weight: float = 1e-6
    """Weight of the Kullback-Leibler divergence to N(0, 1), in nats per image, once the whole
    loss is divided by the image's C*H*W: the convention of LDM's published 1e-6."""

    initial_std: float = 1.0
    """About the posteriors' standard deviation before training. Ordinary weights begin near 1, and
    so small a KL weight leaves it to the reconstruction to narrow what it needs. Narrower ones
    rebuild sooner, but nothing then makes details large enough to outlive a generator's errors
    (benchmarks/README.md)."""
    keep_prior: bool = False
    """Whether latents are left as they are when trained, with N(0, 1) their prior as the divergence
    has it; no: they are normalised, as generators in them want it. Choose yes for a variational
    autoencoder that is to draw, or whose likelihood is to be measured."""
    orthogonal: bool = False
    """Whether the layers around z begin with orthogonal weights (Saxe et al. 2014, section 3). As
    stock layers begin, the channels of z are nearly one and the same, and it depends on the seed
    when a short run finds a use for each (benchmarks/LOG.md)."""
    divergence: Divergence = field(default_factory=Whole)
    """What of the divergence is paid for."""
    kl_warmup: int = 0
    """Optimiser steps in which `kl_weight` rises from 0, evenly (Sønderby et al. 2016, section
    2.3): numbers of z that nothing is read off yet are not given up for ever."""

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"bottleneck.channels is {self.channels}: it must be at least 1")
        if self.initial_std <= 0:
            raise ValueError(f"bottleneck.initial_std is {self.initial_std}: it must be positive")
        if self.kl_warmup < 0:
            raise ValueError(f"bottleneck.kl_warmup is {self.kl_warmup}: it must be 0 or more")

    def weight(self, step: int) -> float:
        """Of the divergence, after `step` finished optimiser steps."""
        return self.kl_weight * (min(1.0, step / self.kl_warmup) if self.kl_warmup else 1.0)

    @property
    def inputs(self) -> int:
        """Channels that it is given: mean and log-variance of each of z's."""
        return 2 * self.channels

    def build(self) -> "GaussianBottleneck":
        """Make the bottleneck."""
        return GaussianBottleneck(self)

    def autoencoder(self, **settings: Any) -> "diffusers.AutoencoderKL":
        """A stock AutoencoderKL around it."""
        model = diffusers.AutoencoderKL(
            latent_channels=self.channels, scaling_factor=1.0, **settings
        )
        self.begin(model)
        return model

    @torch.no_grad()
    def begin(self, model: "diffusers.AutoencoderKL") -> None:
        """Set the new convolution that emits mean and log-variance to `initial_std`, and the layers
        around z to what `orthogonal` says.
        """
        assert model.quant_conv is not None and model.quant_conv.bias is not None
        if self.orthogonal:
            orthogonal_waist(model)
        model.quant_conv.bias[self.channels :] += 2 * math.log(self.initial_std)


@torch.no_grad()
def orthogonal_waist(model: nn.Module) -> None:
    """Let the layers around z begin with orthogonal weights."""
    for name in WAIST:
        nn.init.orthogonal_(model.get_parameter(f"{name}.weight"))


class GaussianBottleneck(Bottleneck):
    """Reads mean and log-variance off the channels and draws z; float32 throughout."""

    def __init__(self, spec: Gaussian) -> None:
        super().__init__()
        self.spec, self.has_prior, self.may_scale = spec, spec.keep_prior, not spec.keep_prior
        self.z_channels, self.step = spec.channels, 0

    @property
    def compares(self) -> bool:
        """Whether what is paid for the divergence does."""
        return self.spec.divergence.compares

    def forward(self, h: Float[Tensor, "b in h w"], generator: Generators | None = None) -> Latent:
        """Draw z by reparametrisation; the term is what is paid for the closed-form divergence,
        summed over z.
        """
        posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution(h.float())
        z = _drawn(posterior, generator)
        drawn = Drawn(posterior.mean, posterior.logvar, z, posterior.kl())
        latent = Latent(z, divergence=drawn.divergence)
        if self.compares and not self.training:  # it would wait for ranks that are not asked
            return latent
        nats, self.metrics = self.spec.divergence.paid(drawn, self.step)
        return replace(latent, rates={"kl": self.spec.weight(self.step) * nats})

    def step_begin(self, step: int) -> None:
        """Follow the schedules of the weight and of a capacity."""
        self.step = step

    def weigh(
        self, h: Float[Tensor, "b in h w"], generator: Generators | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
        """Draw z; the prior is N(0, 1)."""
        posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution(h.float())
        z = _drawn(posterior, generator)
        away = (z - posterior.mean) / posterior.std
        ratio = (away.square() - z.square() + posterior.logvar) / 2
        return z, ratio.flatten(1).sum(1)

    def sample_prior(
        self, height: int, width: int, generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """Of N(0, 1), one latent for each generator."""
        return gaussian((self.z_channels, height, width), generator, torch.device("cpu"))

    def mode(self, h: Float[Tensor, "b in h w"]) -> Float[Tensor, "b c h w"]:
        """The posterior's mean."""
        return h.float().chunk(2, dim=1)[0]

    def pack(self, h: Float[Tensor, "b in h w"]) -> Float[Tensor, "b in h w"]:
        """Keep the moments, so that every epoch can draw afresh."""
        return h.float()

    def unpack(
        self, packed: Float[Tensor, "b in h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Draw z from stored moments."""
        posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution(packed.float())
        return _drawn(posterior, generator)


def _drawn(
    posterior: "diffusers.models.autoencoders.vae.DiagonalGaussianDistribution",
    generator: Generators | None,
) -> Float[Tensor, "b c h w"]:
    """What `posterior.sample` draws, but that no device waits for the noise of each sample."""
    if generator is None:
        return posterior.sample()
    mean = posterior.mean
    return mean + posterior.std * gaussian(mean.shape[1:], generator, mean.device)
