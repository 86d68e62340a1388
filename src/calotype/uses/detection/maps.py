"""From what a score says of sites to a heat map, from that to a picture's score, and to alarms."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.lazy import torchvision
from calotype.uses.detection.conformal import needed


@dataclass(frozen=True)
class Rule:
    """How heat maps become verdicts, alike for all scores.

    Raises:
        ValueError: a number is not possible.
    """

    top: float = 0.01
    """Part of a picture's pixels whose mean, of the highest, is its score: near 0 the highest
    alone, for small defects; 1 the mean of all, for pictures that are unusual as a whole."""
    smoothing: float = 1 / 64
    """Standard deviation of the Gaussian that maps are blurred by, as a part of the shorter side;
    0: they are not."""
    false_alarm_rate: float = 0.05
    """Of pictures that are normal, those that may be above the threshold."""

    def __post_init__(self) -> None:
        if not 0 < self.top <= 1:
            raise ValueError(f"rule.top is {self.top}: it must be above 0, and at most 1")
        if not 0 <= self.smoothing <= 0.5:
            raise ValueError(f"rule.smoothing is {self.smoothing}: it must lie in [0, 0.5]")
        needed(self.false_alarm_rate)

    @property
    def said(self) -> str:
        """In words."""
        return f"the mean of the highest {100 * self.top:g} % of its heat map"

    @torch.no_grad()
    def heat(self, sites: Float[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n H W"]:
        """Maps of pictures' size, bilinear between sites."""
        maps = functional.interpolate(sites[:, None].float(), size, mode="bilinear",
                                      align_corners=False)  # fmt: skip
        sigma = self.smoothing * min(size)
        reach = min(int(4 * sigma + 0.5), min(size) - 1)
        if reach < 1:
            return maps[:, 0]
        blur = torchvision.transforms.v2.functional.gaussian_blur
        return blur(maps, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])[:, 0]

    def pooled(self, maps: Float[Tensor, "n H W"]) -> Float[np.ndarray, " n"]:
        """Pictures' scores."""
        flat = maps.flatten(1)
        count = max(1, round(self.top * flat.shape[1]))
        return flat.topk(count, 1).values.double().mean(1).numpy()
