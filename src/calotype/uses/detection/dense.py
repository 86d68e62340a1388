"""Where vectors are unlike those of normal pictures: a density of a grid's vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.uses.detection.densities import Density, Gaussian, Unusual
from calotype.uses.detection.encoded import Encoded
from calotype.uses.detection.features import Features
from calotype.uses.detection.score import Looked, Score

TOGETHER = 512
"""Sites whose Gaussians are fitted at a time."""


class Anywhere(Score):
    """One density for all sites: pictures whose parts may lie anywhere.

    Args:
        features: Of which.
        density: What is fitted.
        unit: Of what that gives.
    """

    def __init__(self, features: Features, density: Density, unit: str = "no unit") -> None:
        self.features, self.density, self.unit = features, density, unit
        self._unusual: Unusual | None = None
        self._mean = self._scale = torch.zeros(())

    def look(self, pictures: Encoded) -> Looked:
        """Take the features."""
        return self.features(pictures)

    def learn(self, normal: Looked) -> None:
        """Fit, of channels that vary alike."""
        self._mean = normal.mean((0, 2, 3), keepdim=True)
        self._scale = normal.std((0, 2, 3), keepdim=True) + 1e-6
        self._unusual = self._fitted(self._alike(normal))

    def judge(self, looked: Looked) -> Float[Tensor, "n h w"]:
        """Measure each site.

        Raises:
            ValueError: nothing was learnt.
        """
        if self._unusual is None:
            raise ValueError("this score has learnt nothing: call fit with normal pictures first")
        return self._judged(self._unusual, self._alike(looked))

    def _alike(self, looked: Looked) -> Looked:
        return (looked - self._mean) / self._scale

    def _fitted(self, alike: Looked) -> Unusual:
        return self.density.fit(_sites(alike))

    def _judged(self, unusual: Unusual, alike: Looked) -> Float[Tensor, "n h w"]:
        n, _, h, w = alike.shape
        return unusual(_sites(alike)).view(n, h, w)


class EachSite(Anywhere):
    """A Gaussian of its own for each site: pictures whose parts always lie where they lie, such as
    a product before a camera (PaDiM; Defard et al. 2021).

    Args:
        features: Of which.
    """

    def __init__(self, features: Features) -> None:
        super().__init__(features, Gaussian(), "standard deviations")

    def _fitted(self, alike: Looked) -> Unusual:
        # By and by: covariances of many sites in double precision may not fit.
        each = [self.density.fit(part) for part in _by_site(alike).split(TOGETHER)]
        return lambda sites: torch.cat(
            [fit(part) for fit, part in zip(each, sites.split(TOGETHER), strict=True)]
        )

    def _judged(self, unusual: Unusual, alike: Looked) -> Float[Tensor, "n h w"]:
        n, _, h, w = alike.shape
        return unusual(_by_site(alike)).T.reshape(n, h, w)


def _sites(looked: Looked) -> Float[Tensor, "m d"]:
    return looked.permute(0, 2, 3, 1).flatten(0, 2)


def _by_site(looked: Looked) -> Float[Tensor, "s n d"]:
    return looked.flatten(2).permute(2, 0, 1)
