"""What is usual of vectors: each a spec whose `fit` gives what says how unusual others are.

What is fitted reads float32 vectors [... n d] and answers [... n], the higher the more unusual.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.lazy import sklearn

Vectors = Float[Tensor, "*p n d"]
Unusual = Callable[[Vectors], Float[Tensor, "*p n"]]

TINY = 1e-6
"""Of a mean variance: what is added to variances, so that what never varied can be divided by."""
MOST = 20_000
"""Vectors that a mixture is fitted to, drawn from all."""


@dataclass(frozen=True)
class Gaussian:
    """One Gaussian, of leading dimensions one for each; covariances shrunk as far as so few
    vectors ask for (Ledoit & Wolf 2004, eq. 14).
    """

    def fit(self, vectors: Vectors) -> "Mahalanobis":
        """Estimate mean and covariance."""
        x = vectors.double()
        mean = x.mean(-2, keepdim=True)
        x = x - mean
        n, d = x.shape[-2:]
        S = x.mT @ x / n
        size = S.diagonal(dim1=-2, dim2=-1).mean(-1)
        identity = torch.eye(d, dtype=x.dtype, device=x.device)
        wide = size[..., None, None] * identity
        away = (S - wide).square().mean((-2, -1))
        noise = (x.square().sum(-1).square().mean(-1) / d**2 - S.square().mean((-2, -1))) / n
        part = (noise / away.clamp_min(1e-30)).clamp(0, 1)[..., None, None]
        covariance = (
            (1 - part) * S + part * wide + (TINY * size + 1e-12)[..., None, None] * identity
        )
        return Mahalanobis(mean, torch.linalg.cholesky(covariance))


@dataclass(frozen=True)
class Mahalanobis:
    """The distance to a mean in standard deviations of its direction."""

    mean: Float[Tensor, "*p 1 d"]
    cholesky: Float[Tensor, "*p d d"]
    """The lower factor of the covariance."""

    def __call__(self, vectors: Vectors) -> Float[Tensor, "*p n"]:
        """Measure; no unit."""
        away = (vectors.double() - self.mean).mT
        return torch.linalg.solve_triangular(self.cholesky, away, upper=False).norm(dim=-2).float()


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians with full covariances (scikit-learn's, by expectation-maximisation).

    Raises:
        ValueError: there is no component.
    """

    components: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"mixture.components is {self.components}: it must be at least 1")

    def fit(self, vectors: Float[Tensor, "n d"]) -> "MixtureNats":
        """Fit to all, or to `MOST` of them."""
        chance = np.random.default_rng(self.seed)
        x = vectors.double().numpy()
        x = x if len(x) <= MOST else x[chance.choice(len(x), MOST, replace=False)]
        model: Any = sklearn.mixture.GaussianMixture(
            min(self.components, 1 + len(x) // 10), reg_covar=TINY + 1e-3 * float(x.var()),
            max_iter=500, random_state=self.seed,
        )  # fmt: skip
        return MixtureNats(model.fit(x))


@dataclass(frozen=True)
class MixtureNats:
    """-ln of a mixture's density, in nats."""

    model: Any

    def __call__(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Measure."""
        return torch.from_numpy(-self.model.score_samples(vectors.double().numpy())).float()


@dataclass(frozen=True)
class Principal:
    """The principal subspace that holds a part of the variance.

    Raises:
        ValueError: the part is none.
    """

    kept: float = 0.95
    """Of the variance."""

    def __post_init__(self) -> None:
        if not 0 < self.kept < 1:
            raise ValueError(f"principal.kept is {self.kept}: it must lie between 0 and 1")

    def fit(self, vectors: Float[Tensor, "n d"]) -> "Residual":
        """Find it."""
        x = vectors.double()
        mean = x.mean(0)
        _, values, directions = torch.linalg.svd(x - mean, full_matrices=False)
        held = values.square().cumsum(0) / values.square().sum().clamp_min(1e-30)
        count = int((held < self.kept).sum()) + 1
        return Residual(mean.float(), directions[: min(count, len(x) - 1)].float())


@dataclass(frozen=True)
class Residual:
    """What a linear autoencoder leaves out: the distance to its subspace, in the vectors' unit."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "k d"]

    def left(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """What it leaves out of each."""
        x = vectors.float() - self.mean
        return x - x @ self.directions.T @ self.directions

    def __call__(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Measure."""
        return self.left(vectors).norm(dim=-1)


@dataclass(frozen=True)
class Nearest:
    """Usual vectors themselves, of many a coreset: again and again the one that is farthest from
    all that are chosen (k-centre; Roth et al. 2022, algorithm 1).

    Raises:
        ValueError: nothing would be kept.
    """

    kept: int = 4096
    """Vectors, at most."""
    drawn: int = 65_536
    """Vectors that these are chosen from, drawn from all."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kept < 1 or self.drawn < self.kept:
            raise ValueError(
                f"nearest.kept is {self.kept} of {self.drawn} drawn: keep at least 1, of at least "
                "as many"
            )

    def fit(self, vectors: Float[Tensor, "n d"]) -> "Distance":
        """Choose them."""
        x, chance = vectors.float(), torch.Generator().manual_seed(self.seed)
        x = x[torch.randperm(len(x), generator=chance)[: self.drawn]]
        if len(x) <= self.kept:
            return Distance(x)
        squares, chosen = x.square().sum(1), [0]
        far = torch.full((len(x),), torch.inf)
        while len(chosen) < self.kept:
            last = chosen[-1]
            far = torch.minimum(far, squares + squares[last] - 2 * x @ x[last])
            chosen.append(int(far.argmax()))
        return Distance(x[chosen])


@dataclass(frozen=True)
class Distance:
    """To the nearest vector of a bank, in the vectors' unit."""

    bank: Float[Tensor, "k d"]

    def __call__(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Measure."""
        centre = self.bank.mean(0)  # far from it distances would lose digits
        parts, bank = vectors.float().sub(centre).split(4096), self.bank - centre
        return torch.cat([torch.cdist(part, bank).amin(1) for part in parts])


Density = Gaussian | Mixture | Principal | Nearest
