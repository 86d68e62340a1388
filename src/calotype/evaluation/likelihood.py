"""Bounds on the likelihood of pictures, where a latent has a prior (Burda et al. 2016)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms import Likelihood
from calotype.tokenizers.terms.likelihoods import BernoulliTerm
from calotype.training import Batch
from calotype.training.images import sent_images
from calotype.training.noise import Generators, generators


@dataclass(frozen=True)
class Bound:
    """Means over pictures, in nats a picture."""

    nll: float
    """-ln of a bound on p(x) that is the tighter the more samples it is of: eq. 8 there."""
    elbo: float
    """-ELBO, by the same samples."""
    error: float
    """Standard error of `nll`."""
    bits: float
    """`nll` in bits a dimension, as `Likelihood.bits`."""
    samples: int
    """Of the latent of each picture."""
    images: int


@dataclass(frozen=True)
class Importance:
    """How likely pictures are to a tokenizer, by samples of each one's latent."""

    term: Likelihood
    """Of pixels."""
    samples: int = 200
    """Of the latent of each picture."""
    each: int = 1024
    """Latents that are decoded at a time."""

    @property
    def said(self) -> str:
        """What must be known of its figures."""
        how = f"by {self.samples} latents of each picture"
        if isinstance(self.term, BernoulliTerm):
            return f"{how}; a likelihood of black and white, and of grey a cross-entropy alone"
        return how

    def log_weights(
        self, tokenizer: ImageTokenizer, images: Float[Tensor, "b c H W"],
        h: Float[Tensor, "b in h w"], chance: Generators,
    ) -> Float[Tensor, "samples b"]:  # fmt: skip
        """Ln p(x | z) + ln p(z) - ln q(z | x) of samples of each picture, in float64 on the CPU.

        Raises:
            ValueError: the tokenizer's latents have no prior.
        """
        times = max(1, self.each // len(images))
        parts = [self._some(tokenizer, images, h, chance, min(times, self.samples - start))
                 for start in range(0, self.samples, times)]  # fmt: skip
        return torch.cat(parts)

    def _some(
        self, tokenizer: ImageTokenizer, images: Float[Tensor, "b c H W"],
        h: Float[Tensor, "b in h w"], chance: Generators, times: int,
    ) -> Float[Tensor, "times b"]:  # fmt: skip
        drawn = [tokenizer.bottleneck.weigh(h, chance) for _ in range(times)]
        maps = tokenizer.decode_maps(torch.cat([z for z, _ in drawn])).float()
        read = tokenizer.channels * self.term.maps  # type: ignore[operator]
        nats = self.term(maps[:, :read], images.repeat(times, 1, 1, 1)).cpu().double()
        ratios = torch.stack([ratio for _, ratio in drawn]).cpu().double()
        return ratios - nats.view(times, -1) * images[0].numel()

    def figures(
        self, weights: Float[Tensor, "samples b"], numbers: int
    ) -> dict[str, Float[Tensor, " b"]]:
        """Of each picture, which has so many numbers."""
        nll = -(weights.logsumexp(0) - math.log(self.samples))
        bits = self.term.bits(nll / numbers)
        return {"nll_nats": nll, "nll_bits_per_dim": bits, "elbo_nats": weights.mean(0)}


@torch.no_grad()
def importance_bound(
    tokenizer: ImageTokenizer, term: Likelihood, batches: Iterable[Batch], samples: int = 200,
    each: int = 1024,
) -> Bound:  # fmt: skip
    """Measure pictures that are float32 in [-1, 1], `each` latents at a time.

    Raises:
        ValueError: the tokenizer's latents have no prior, or there are no pictures.
    """
    tokenizer, importance = tokenizer.eval(), Importance(term, samples, each)
    found: list[dict[str, Tensor]] = []
    for batch in batches:
        images = sent_images(batch["image"], tokenizer.weight.device)
        h, chance = tokenizer.features(images), generators(batch["key"])
        weights = importance.log_weights(tokenizer, images, h, chance)
        found.append(importance.figures(weights, images[0].numel()))
    if not found:
        raise ValueError("no pictures to measure: the data source is empty")
    nll, bits, elbo = (torch.cat([part[name] for part in found]) for name in found[0])
    error = (nll.std() / math.sqrt(len(nll))).item()
    means = nll.mean().item(), -elbo.mean().item(), error, bits.mean().item()
    return Bound(*means, samples, len(nll))
