"""A hyperprior: what latents are like where, as a small picture of its own that is sent before them
(Ballé et al. 2018, section 3).

The tokenizer stays as it is, and so only rates are learnt here. A latent's number is Gaussian about
a mean, of a deviation, and both follow from the hyper-latents (Minnen et al. 2018, without their
context); it is sent in whole steps from that mean. One fit serves any step.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LARGEST_HYPER = 32
"""Of hyper-latents, which are whole numbers; larger ones are cut."""
FINEST, COARSEST = -6.0, 3.0
"""Logarithms to base 2 of the steps that a fit is for, beside latents of deviation 1."""
LOG_SCALES = -6.0, 4.0
"""Logarithms to base 2 of the least and the largest deviation of a latent's number."""


@dataclass(frozen=True)
class Hyperprior:
    """A small convolutional hyperprior, and how it is fitted."""

    width: int = 32
    """Channels of its layers."""
    channels: int = 12
    """Of the hyper-latents, which are a quarter as high and wide as the latents."""
    steps: int = 1_000
    """Of the optimiser."""
    batch_size: int = 32
    """Latents a step."""
    lr: float = 2e-3
    """Learning rate, which falls to 0 along half a cosine."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "channels", "steps", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--hyperprior.{name} is {value}: it must be at least 1")
        if not self.lr > 0:
            raise ValueError(f"--hyperprior.lr is {self.lr}: it must be above 0")


class HyperNetwork(nn.Module):
    """Analysis of latents, synthesis of their means and deviations, and a density of the
    hyper-latents between.
    """

    def __init__(self, latent: int, width: int, channels: int) -> None:
        super().__init__()
        self.latent = latent
        self.analysis = nn.Sequential(
            nn.Conv2d(latent, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, channels, 3, stride=2, padding=1),
        )  # fmt: skip
        self.synthesis = nn.ModuleList([
            nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, 2 * latent, 3, padding=1),
        ])  # fmt: skip
        places = torch.linspace(-4, 4, 3).repeat(channels, 1)
        self.density = nn.Parameter(torch.stack([places, torch.zeros_like(places),
                                                 torch.zeros_like(places)]))  # fmt: skip

    def rate(
        self, z: Float[Tensor, "b c h w"], step: Float[Tensor, " b"], chance: torch.Generator
    ) -> Float[Tensor, ""]:
        """Bits a number of latents that are coded in these steps; rounding is noise (eq. 5)."""
        hyper = self.analysis(z)
        hyper = hyper + torch.rand(hyper.shape, generator=chance) - 0.5
        mean, log_scale = self.predict(hyper, (z.shape[2], z.shape[3]))
        noisy = z + (torch.rand(z.shape, generator=chance) - 0.5) * step[:, None, None, None]
        scale, half = (math.log(2) * log_scale).exp(), step[:, None, None, None] / 2
        away = (noisy - mean).abs()
        likely = _normal((half - away) / scale) - _normal((-half - away) / scale)
        bits = -likely.clamp_min(1e-9).log2().sum() - self.hyper_likely(hyper).log2().sum()
        return bits / z.numel()

    def predict(
        self, hyper: Float[Tensor, "b m y x"], shape: tuple[int, int]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Means, and logarithms to base 2 of deviations."""
        for layer in list(self.synthesis)[:2]:
            hyper = functional.interpolate(hyper, scale_factor=2, mode="nearest")
            hyper = layer(hyper).relu()
        out = self.synthesis[2](hyper)[:, :, : shape[0], : shape[1]]
        mean, log_scale = out.chunk(2, dim=1)
        return mean, log_scale.clamp(*LOG_SCALES)

    def hyper_likely(self, hyper: Float[Tensor, "b m y x"]) -> Float[Tensor, "b m y x"]:
        """How likely whole numbers about these are: three logistic distributions a channel."""
        places, log_widths, logits = self.density[:, :, None, None]
        x = hyper[..., None] - places
        width = log_widths.exp()
        away = x.abs()
        likely = ((0.5 - away) / width).sigmoid() - ((-0.5 - away) / width).sigmoid()
        return (likely * logits.softmax(-1)).sum(-1).clamp_min(1e-9)


def _normal(x: Tensor) -> Tensor:
    return torch.special.erfc(-x / 2**0.5) / 2


def fit_network(latents: Float[Tensor, "n c h w"], spec: Hyperprior) -> HyperNetwork:
    """Learn to code latents, in steps of any size between 1/64 and 8, in few bits.

    Raises:
        ValueError: the rate is not finite.
    """
    chance = torch.Generator().manual_seed(spec.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = HyperNetwork(latents.shape[1], spec.width, spec.channels)
    optimizer = torch.optim.Adam(network.parameters(), spec.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.steps)
    rate = torch.zeros(())
    for _ in range(spec.steps):
        places = torch.randint(len(latents), (spec.batch_size,), generator=chance)
        drawn = torch.rand(spec.batch_size, generator=chance)
        step = 2 ** (FINEST + (COARSEST - FINEST) * drawn)
        rate = network.rate(latents[places], step, chance)
        optimizer.zero_grad()
        rate.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    if not rate.isfinite():
        raise ValueError("the hyperprior's rate is not finite: lower --hyperprior.lr")
    return network.eval()
