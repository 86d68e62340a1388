"""Priors that are fitted to a trained tokenizer's latents, so that any continuous one draws
pictures: what Ghosh et al. 2020 (section 4) call ex-post density estimation.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from calotype.lazy import sklearn
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.latent_space import fingerprint
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training.images import sent_images
from calotype.training.noise import Generators, gaussian, generators
from calotype.training.objective import Batch

FILE = "calotype_prior.safetensors"
"""Beside a tokenizer."""
MOST_NUMBERS = 4096
"""Of a latent whose covariance is estimated: as a matrix of float64 it takes 128 MiB."""


@dataclass(frozen=True)
class OneGaussian:
    """One normal distribution with its whole covariance."""

    shrinkage: float = 0.0
    """Share of the covariance that is replaced by its diagonal's mean (Ledoit & Wolf 2004, eq. 14):
    above 0 where there are not many more pictures than numbers in a latent."""

    def __post_init__(self) -> None:
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"prior.shrinkage is {self.shrinkage}: it lies between 0 and 1")

    def fit(self, latents: Float[Tensor, "n d"]) -> "Components":
        """Estimate it."""
        covariance = latents.T.cov(correction=0).view(latents.shape[1], latents.shape[1])
        even = covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        covariance = (1 - self.shrinkage) * covariance + self.shrinkage * even
        weights = torch.ones(1).to(latents)
        return Components(weights, latents.mean(0, keepdim=True), _roots(covariance[None]))


@dataclass(frozen=True)
class Mixture:
    """Several normal distributions, by expectation and maximisation (scikit-learn's)."""

    components: int = 10
    seed: int = 0
    """Of what they begin with."""

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"prior.components is {self.components}: it must be at least 1")

    def fit(self, latents: Float[Tensor, "n d"]) -> "Components":
        """Estimate them, each with its whole covariance.

        Raises:
            ValueError: there are fewer latents than components.
        """
        if len(latents) < self.components:
            raise ValueError(
                f"prior.components is {self.components}, and there are {len(latents)} pictures: "
                "choose fewer"
            )
        found = sklearn.mixture.GaussianMixture(self.components, random_state=self.seed)
        found.fit(latents.numpy())
        covariances = torch.from_numpy(found.covariances_)
        weights, means = (torch.from_numpy(x) for x in (found.weights_, found.means_))
        return Components(weights, means, _roots(covariances))


PriorSpec = OneGaussian | Mixture


@dataclass(frozen=True)
class Components:
    """Normal distributions of flat latents, in float64."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    roots: Float[Tensor, "k d d"]
    """Lower triangles L, of covariances L L^T."""

    def log_density(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Of latents, in nats."""
        away = z[None].double() - self.means[:, None]
        solved = torch.linalg.solve_triangular(self.roots, away.mT, upper=False)
        volume = self.roots.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = self.means.shape[1] / 2 * math.log(2 * math.pi)
        each = -solved.square().sum(1) / 2 - (volume + constant)[:, None]
        return (each + self.weights.log()[:, None]).logsumexp(0)


@dataclass(frozen=True)
class Prior:
    """What a tokenizer's latents are drawn from."""

    components: Components
    shape: tuple[int, int, int]
    """Channels, height and width of a latent."""
    latent_space: str
    """Fingerprint of the tokenizer's."""
    images: int
    """To whose latents it was fitted."""

    def draw(self, chance: Generators) -> Float[Tensor, "b c h w"]:
        """Latents as `ImageTokenizer.decode` reads them, one for each generator."""
        parts = self.components
        which = torch.cat([torch.multinomial(parts.weights, 1, generator=g) for g in chance])
        noise = gaussian(parts.means.shape[1:], chance, parts.means.device).double()
        flat = parts.means[which] + torch.einsum("bij,bj->bi", parts.roots[which], noise)
        return flat.float().unflatten(1, self.shape)

    def log_density(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Of latents, in nats."""
        return self.components.log_density(z.flatten(1))

    def save(self, folder: Path) -> Path:
        """Write it beside a tokenizer; returns the file."""
        told = {"shape": list(self.shape), "latent_space": self.latent_space, "images": self.images}
        parts = self.components
        tensors = {"weights": parts.weights, "means": parts.means, "roots": parts.roots}
        file, beside = folder / FILE, folder / f".{FILE}.partial"
        save_file({n: t.contiguous() for n, t in tensors.items()}, beside,
                  {"prior": json.dumps(told)})  # fmt: skip
        return beside.replace(file)

    @classmethod
    def load(cls, folder: Path) -> "Prior":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not whole.
        """
        file = folder / FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"no prior in {folder}: fit one with calotype fit-prior {folder} --data.path DIR"
            )
        try:
            with safe_open(file, "pt") as held:
                told = json.loads(held.metadata()["prior"])
                parts = Components(*(held.get_tensor(n) for n in ("weights", "means", "roots")))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is no prior: {error}; fit it again") from error
        return cls(parts, tuple(told["shape"]), told["latent_space"], told["images"])

    def check(self, tokenizer: ImageTokenizer) -> None:
        """Refuse another tokenizer than the one it was fitted to.

        Raises:
            ValueError: it is another.
        """
        if (own := fingerprint(tokenizer)) != self.latent_space:
            raise ValueError(
                f"the prior was fitted to latents {self.latent_space}, and the tokenizer's are "
                f"{own}: run calotype fit-prior again"
            )


@torch.no_grad()
def fit_prior(tokenizer: ImageTokenizer, batches: Iterable[Batch], spec: PriorSpec) -> Prior:
    """Fit a prior to the latents of images, drawn where there is a posterior.

    Raises:
        ValueError: the tokenizer has codes, for which a transformer is trained; there are fewer
            than two images, or latents of several shapes, or of more numbers than a covariance is
            for.
    """
    if isinstance(tokenizer.bottleneck, Discrete):
        raise ValueError("a tokenizer with codes has no density: train a transformer on its tokens")
    device = tokenizer.weight.device
    found: list[Tensor] = []
    for batch in batches:
        packed = tokenizer.pack(sent_images(batch["image"], device))
        found.append(tokenizer.bottleneck.unpack(packed, generators(batch["key"])).cpu())
    shapes = {tuple(z.shape[1:]) for z in found}
    if len(shapes) > 1:
        raise ValueError("latents are of several shapes: crop pictures to one")
    if sum(map(len, found)) < 2:
        raise ValueError("fewer than 2 pictures to fit a prior to")
    ((channels, height, width),) = shapes
    numbers = channels * height * width
    if numbers > MOST_NUMBERS:
        raise ValueError(
            f"a latent has {numbers} numbers, and a covariance is estimated of {MOST_NUMBERS} at "
            "most: train a diffusion model, as small-diffusion, or take smaller pictures"
        )
    latents = torch.cat(found).flatten(1).double()
    parts = spec.fit(latents)
    return Prior(parts, (channels, height, width), fingerprint(tokenizer), len(latents))


def _roots(covariances: Float[Tensor, "k d d"]) -> Float[Tensor, "k d d"]:
    """Their Cholesky factors; what has no variance gets a little, beside the largest."""
    largest = covariances.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    little = 1e-6 * largest.clamp_min(1e-12) * torch.eye(covariances.shape[-1]).to(covariances)
    return torch.linalg.cholesky(covariances + little)
