"""Restored pictures against the truth, beside what classical methods made of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.distortion import Originals
from calotype.evaluation.reconstructions import EXACT_DB
from calotype.tokenizers.terms.base import Term
from calotype.uses.restoration.measurements import Several


@dataclass(frozen=True)
class Compared:
    """What a way of restoring came to."""

    values: Mapping[str, Float[Tensor, " n"]]
    """By name of the figure, of each picture: `psnr_db`, `ssim`, `lpips_alex`, ..."""

    def mean(self, figure: str) -> float:
        """Over pictures."""
        return float(self.values[figure].mean())

    def error(self, figure: str) -> float:
        """Standard error of the mean; of one picture there is none, which is 0."""
        values = self.values[figure].double()
        return float(values.std() / len(values) ** 0.5) if len(values) > 1 else 0.0

    @property
    def pooled_psnr_db(self) -> float:
        """PSNR of the squared error of all pictures together, which a few that are exact, or all
        but, do not rule as they do the mean of decibels.
        """
        return float(-10 * (10 ** (-self.values["psnr_db"].double() / 10)).mean().log10())

    @property
    def figures(self) -> dict[str, float]:
        """Means by name, rounded, and what all pictures come to together."""
        means = {name: self.mean(name) for name in self.values}
        told = {**means, "pooled_psnr_db": self.pooled_psnr_db}
        return {name: round(value, 4) for name, value in told.items()}


def compared(
    truth: Several, made: Mapping[str, Several], lpips: Mapping[str, Term]
) -> dict[str, Compared]:
    """Compare, in 8 bits.

    Args:
        truth: Pictures, each [1 c H W] in [-1, 1].
        made: What was made of each, by name.
        lpips: Perceptual distances by backbone.
    """
    told: dict[str, list[dict[str, Tensor]]] = {name: [] for name in made}
    for place, real in enumerate(truth):
        originals = Originals(eight_bits(real), lpips)
        for name, images in made.items():
            told[name].append(originals.distortion(eight_bits(images[place])))
    found = {}
    for name, each in told.items():
        values = {figure: torch.cat([one[figure] for one in each]).float() for figure in each[0]}
        values["psnr_db"] = values["psnr_db"].clamp(max=EXACT_DB)
        found[name] = Compared(values)
    return found
