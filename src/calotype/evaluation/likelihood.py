"""Bounds on the likelihood of pictures, where a latent has a prior (Burda et al. 2016)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms import Likelihood
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


@torch.no_grad()
def importance_bound(
    tokenizer: ImageTokenizer, term: Likelihood, batches: Iterable[Batch], samples: int = 200,
    each: int = 1024,
) -> Bound:  # fmt: skip
    """Measure pictures that are float32 in [-1, 1], `each` latents at a time.

    Raises:
        ValueError: the tokenizer's latents have no prior, or there are no pictures.
    """
    tokenizer = tokenizer.eval()
    found: list[Float[Tensor, "s b"]] = []
    size = 1
    for batch in batches:
        images = sent_images(batch["image"], tokenizer.weight.device)
        size = images[0].numel()
        chance = generators(batch["key"])
        h = tokenizer.features(images)
        times = max(1, each // len(images))
        parts = [_log_weights(tokenizer, term, images, h, chance, min(times, samples - start))
                 for start in range(0, samples, times)]  # fmt: skip
        found.append(torch.cat(parts).cpu())
    if not found:
        raise ValueError("no pictures to measure: the data source is empty")
    weights = torch.cat(found, dim=1)
    nll = -(weights.logsumexp(0) - math.log(samples))
    mean = nll.mean()
    return Bound(
        mean.item(), -weights.mean().item(), (nll.std() / math.sqrt(len(nll))).item(),
        term.bits(mean / size).item(), samples, len(nll),
    )  # fmt: skip


def _log_weights(
    tokenizer: ImageTokenizer, term: Likelihood, images: Float[Tensor, "b c H W"],
    h: Float[Tensor, "b in h w"], chance: Generators, times: int,
) -> Float[Tensor, "times b"]:  # fmt: skip
    """Ln p(x | z) + ln p(z) - ln q(z | x) of so many samples of each picture, in float64."""
    drawn = [tokenizer.bottleneck.weigh(h, chance) for _ in range(times)]
    maps = tokenizer.decode_maps(torch.cat([z for z, _ in drawn])).float()
    read = tokenizer.channels * term.maps  # type: ignore[operator]
    nats = term(maps[:, :read], images.repeat(times, 1, 1, 1)).double() * images[0].numel()
    return torch.stack([ratio for _, ratio in drawn]).double() - nats.view(times, -1)
