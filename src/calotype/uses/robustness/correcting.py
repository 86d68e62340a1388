"""Latents of attacked pictures, corrected by draws from their posterior (Kuzina et al. 2022)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import (
    Certain,
    Discrete,
    GaussianBottleneck,
    GumbelBottleneck,
    IdentityBottleneck,
)
from calotype.tokenizers.bottlenecks.bernoulli import BernoulliBottleneck
from calotype.tokenizers.bottlenecks.discrete import straight_through
from calotype.tokenizers.terms import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.terms.likelihoods import Likelihood
from calotype.uses.robustness.attacks import Images
from calotype.uses.robustness.hmc import HMC, Chains, hmc

BLIND = GumbelBottleneck | BernoulliBottleneck
"""Those that go straight through nothing themselves once they are trained."""
LEAST = 1e-3
"""Deviation of pixels of a tokenizer that rebuilds all of them, and of a number of latents that is
always the same."""


def latents(tokenizer: ImageTokenizer, images: Images) -> Float[Tensor, "b z h w"]:
    """The likeliest latents, with gradients to pictures; those of codes and bits go straight
    through (Bengio et al. 2013), so that what is computed with them says less of the picture.
    """
    h = tokenizer.features(images).float()
    bottleneck = tokenizer.bottleneck
    if isinstance(bottleneck, BLIND):
        return straight_through(h, bottleneck.mode(h))
    return bottleneck(h).z if isinstance(bottleneck, Discrete) else bottleneck.mode(h)


def unquantised(tokenizer: ImageTokenizer, images: Images) -> Float[Tensor, "b z h w"]:
    """Latents before codes or bits are chosen, with gradients to pictures: as long as the choice is
    the same a distance of codes is nothing, and has no slope that leads away.
    """
    h = tokenizer.features(images).float()
    chosen = isinstance(tokenizer.bottleneck, Discrete | BernoulliBottleneck)
    return h if chosen else tokenizer.bottleneck.mode(h)


def rebuilt(tokenizer: ImageTokenizer, images: Images) -> Images:
    """Pictures after one pass through a tokenizer, in [-1, 1], with such gradients."""
    # Clipping would stop gradients where a decoder is a little off.
    found = tokenizer.decode(latents(tokenizer, images)).float()
    return straight_through(found, found.clamp(-1, 1))


def is_correctable(tokenizer: ImageTokenizer) -> bool:
    """Whether latents may be any numbers, so that chains can move in them."""
    kinds = GaussianBottleneck | IdentityBottleneck | Certain
    return isinstance(tokenizer.bottleneck, kinds)


@dataclass(frozen=True)
class Normal:
    """What latents are drawn from, number by number."""

    mean: Float[Tensor, "z h w"]
    std: Float[Tensor, "z h w"]

    def __call__(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, " b"]:
        """Logarithm of the density in nats, up to a constant."""
        return -((z - self.mean) / self.std).square().flatten(1).sum(1) / 2


def prior_of(tokenizer: ImageTokenizer, z: Float[Tensor, "n z h w"]) -> Normal:
    """N(0, 1) where training kept it; else as these latents, of clean pictures, are spread."""
    if tokenizer.bottleneck.has_prior:
        return Normal(torch.zeros_like(z[0]), torch.ones_like(z[0]))
    return Normal(z.mean(0), z.std(0).clamp_min(LEAST))


@torch.no_grad()
def likelihood_for(
    tokenizer: ImageTokenizer, images: Images, batch_size: int = 64
) -> Likelihood:  # fmt: skip
    """For one without a likelihood of its own: normal, with the deviation that makes these clean
    pictures likeliest. So many are rebuilt at a time.
    """
    errors = [(tokenizer.reconstruct(some) - some).double().square().sum()
              for some in images.split(batch_size)]  # fmt: skip
    mean = torch.stack(errors).sum().item() / images.numel()
    return GaussianLikelihood(deviation=FixedDeviation(max(math.sqrt(mean), LEAST))).build()


@dataclass(frozen=True)
class Posterior:
    """Of latents, given pictures: ln p(x | z) + ln p(z) in nats, up to a constant."""

    tokenizer: ImageTokenizer
    likelihood: Likelihood
    prior: Normal
    images: Images
    """In [-1, 1]."""

    def __call__(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, " b"]:
        """With gradients."""
        maps = self.tokenizer.decode_maps(z)[:, : self.likelihood.maps * self.tokenizer.channels]
        nats = self.likelihood.each(maps.float(), self.images).flatten(1).sum(1)
        return self.prior(z.float()) - nats


def corrected(
    tokenizer: ImageTokenizer, images: Images, likelihood: Likelihood, prior: Normal,
    how: HMC | None = None,
) -> Chains:  # fmt: skip
    """Chains in latents that begin at q(z | x) of these pictures, which may be attacked: an
    encoder can be led astray by what a decoder knows nothing of.

    Raises:
        ValueError: latents are codes, bits, counts or points of a surface.
    """
    if not is_correctable(tokenizer):
        kind = type(tokenizer.bottleneck).__name__
        raise ValueError(f"{kind}: its latents are not any numbers, so that no chain moves in them")
    how = how or HMC()
    with torch.no_grad():
        drawn = [torch.Generator().manual_seed(how.seed + place) for place in range(len(images))]
        start = tokenizer.encode(images, drawn).z.float()
    return hmc(Posterior(tokenizer, likelihood, prior, images), start, how)
