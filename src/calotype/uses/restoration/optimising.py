"""Restoring by a search for the latent whose picture explains what was seen."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.training.noise import gaussian, generators
from calotype.uses.restoration.measurements import Images, Measurement, Seen


@dataclass(frozen=True)
class Optimise:
    """The likeliest latent of what was seen, with any tokenizer (Bora et al. 2017).

        min_z  ||A(decode(z)) - y||^2 / (2 s^2) + prior ||z||^2 / 2

    z is normalised, as a generator sees it. The search begins where the encoder puts what was seen
    and goes on by Adam, with gradients through the decoder; of a tokenizer with codes z moves
    freely between their vectors.
    """

    steps: int = 200
    """Of Adam."""
    lr: float = 0.03
    """Its step at first, in deviations of a latent; it falls to nothing along half a cosine."""
    prior: float = 1.0
    """Weight of the prior: 1 as it stands for latents that are normally distributed, 0 for none."""
    deviation: float = 0.1
    """s where a measurement says that it has less noise: what the decoder cannot draw is taken for
    noise."""
    starts: int = 1
    """Searches, of which the best one counts: beside the first others begin at random, a quarter of
    a deviation away from it."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "starts"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"way.{name} is {value}: it must be at least 1")
        for name in ("lr", "deviation"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"way.{name} is {value}: it must be positive and finite")
        if not 0 <= self.prior < math.inf:
            raise ValueError(f"way.prior is {self.prior}: it must be 0 or more, and finite")

    def __call__(self, tokenizer: ImageTokenizer, measurement: Measurement, seen: Seen) -> Images:
        """Search."""
        with torch.no_grad():
            first = tokenizer.normalised(tokenizer.latents(measurement.lifted(seen))).float()
        found = [self._searched(tokenizer, measurement, seen, self._begun(first, number))
                 for number in range(self.starts)]  # fmt: skip
        latents, costs = (torch.stack(each) for each in zip(*found, strict=True))
        best = latents[costs.argmin(0), torch.arange(len(seen))]
        with torch.no_grad():
            return tokenizer.decode(tokenizer.stored(best))

    def _begun(self, first: Tensor, number: int) -> Tensor:
        if not number:
            return first
        chance = generators([self.seed + number * 1_000_003 + place for place in range(len(first))])
        return first + gaussian(first.shape[1:], chance, first.device) / 4

    def _searched(
        self, tokenizer: ImageTokenizer, measurement: Measurement, seen: Seen, z: Tensor
    ) -> tuple[Tensor, Float[Tensor, " b"]]:
        """The best latents of one search, and what each costs."""
        z = z.clone().requires_grad_()
        adam = torch.optim.Adam([z], self.lr)
        best, least = z.detach().clone(), torch.full((len(z),), torch.inf, device=z.device)
        for step in range(self.steps + 1):
            with torch.enable_grad():
                cost = self.cost(tokenizer, measurement, seen, z)
                z.grad = torch.autograd.grad(cost.sum(), z)[0]
            better = cost.detach() < least
            least = torch.where(better, cost.detach(), least)
            best = torch.where(better[:, None, None, None], z.detach(), best)
            adam.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
            adam.step()
        return best, least

    def cost(
        self, tokenizer: ImageTokenizer, measurement: Measurement, seen: Seen, z: Tensor
    ) -> Float[Tensor, " b"]:
        """What normalised latents cost, in nats a picture."""
        deviation = max(measurement.noise, self.deviation)
        shown = tokenizer.decode(tokenizer.stored(z)).float()
        apart = (measurement(shown) - seen).square().flatten(1).sum(1) / (2 * deviation**2)
        return apart + self.prior * z.square().flatten(1).sum(1) / 2
