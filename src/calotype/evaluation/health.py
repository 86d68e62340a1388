"""What a latent space is like for those who generate in it."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor

from calotype.evaluation.protocol import rounded
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.bottlenecks.gaussian import GaussianBottleneck

ACTIVE = 0.01
"""Variance of a channel's posterior mean over images and sites above which it is called active
(Burda et al. 2016, section 4.2)."""
OCTAVES = (1 / 16, 1 / 8, 1 / 4)
"""Cycles per site between the bands of the spectrum."""


@dataclass
class LatentSums:
    """Of the latents of some images, in float64."""

    images: int = 0
    sites: int = 0
    shape: tuple[int, ...] = (0, 0)
    """Sites of the last one."""
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, other: "LatentSums") -> None:
        """Count those too."""
        self.images, self.sites = self.images + other.images, self.sites + other.sites
        self.shape = other.shape
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value


class LatentHealth:
    """Of a continuous latent space, or of codes' vectors; gathered batch by batch, in float64.

    Latents are as pipelines see them: shifted and multiplied by the scaling factor.
    """

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        config, self.bottleneck = tokenizer.autoencoder.config, tokenizer.bottleneck
        self.shift = config.get("shift_factor") or 0.0
        self.scale = config.get("scaling_factor") or 1.0
        self.total = LatentSums()

    def sums(
        self, packed: Num[Tensor, "b ..."], z: Float[Tensor, "b c h w"],
        mode: Float[Tensor, "b c h w"],
    ) -> LatentSums:  # fmt: skip
        """Of the latents of some images: what is kept of them, a sample of it, the likeliest."""
        shape = tuple(z.shape[2:])
        z, mode = (self.scale * (each.cpu().double() - self.shift) for each in (z, mode))
        sums = {
            "mean": z.sum((0, 2, 3)), "square": z.square().sum((0, 2, 3)),
            "mode": mode.sum((0, 2, 3)), "mode square": mode.square().sum((0, 2, 3)),
            "power": power(z).sum(0),
        }  # fmt: skip
        if isinstance(self.bottleneck, GaussianBottleneck):
            mean, logvar = packed.cpu().double().chunk(2, 1)
            seen = self.scale * (mean - self.shift), logvar + 2 * math.log(self.scale)
            sums["kl"] = divergence(*seen).sum((0, 2, 3))
        return LatentSums(len(z), len(z) * math.prod(shape), shape, sums)

    def figures(self) -> dict[str, Any]:
        """Per channel mean, standard deviation and whether active; nats and bits; the spectrum."""
        sums, count = self.total.sums, self.total.sites
        each = count / self.total.images
        mean, std = _moments(sums["mean"], sums["square"], count)
        _, spread = _moments(sums["mode"], sums["mode square"], count)
        bands = sums["power"] / sums["power"].sum().clamp_min(1e-300)
        found = {
            "latent": [len(mean), *self.total.shape],
            "mean": rounded(mean.tolist()),
            "std": rounded(std.tolist()),
            "active_channels": int((spread.square() > ACTIVE).sum()),
            "spectrum": rounded(bands.tolist()),
        }
        if "kl" in sums:
            nats = sums["kl"] / count
            found["kl_nats_per_site"] = rounded(nats.tolist())
            # What bits-back coding would take (Townsend et al. 2019, section 2.2).
            found["rate_bits"] = round(nats.sum().item() * each / math.log(2), 1)
        elif isinstance(self.bottleneck, Discrete):
            bits = math.log2(self.bottleneck.codes) * self.bottleneck.codebooks
            found["rate_bits"] = round(bits * each, 1)
        return found


def divergence(
    mean: Float[Tensor, "b c h w"], logvar: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Kullback-Leibler divergence in nats of diagonal Gaussians from N(0, 1) (Kingma & Welling
    2014, appendix B), by mean and log-variance, which is clipped as diffusers clips it.
    """
    logvar = logvar.clamp(-30, 20)
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def power(z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 4"]:
    """Power of latents' variation over the sites, by octaves of radial frequency: below 1/16 cycles
    a site, to 1/8, to 1/4, and above; each channel's mean is left out.
    """
    spectrum = torch.fft.fft2(z.double()).abs().square().mean(1)
    y, x = (torch.fft.fftfreq(n, dtype=torch.float64) for n in z.shape[2:])
    radius = (y[:, None].square() + x.square()).sqrt()
    edges = torch.tensor(OCTAVES, dtype=torch.float64)
    band = torch.bucketize(radius, edges)
    spectrum[:, 0, 0] = 0
    out = torch.zeros(len(z), len(OCTAVES) + 1, dtype=torch.float64)
    return out.index_add_(1, band.flatten(), spectrum.flatten(1))


def _moments(total: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0).sqrt()
