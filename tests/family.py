"""What the family of autoencoders is made of, each as small as it can be, and a program that trains
one in two processes.
"""

from pathlib import Path

import torch

import tiny
from calotype.tokenizers import ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import (
    RBM,
    Bernoulli,
    BottleneckSpec,
    Causal,
    Circle,
    Gaussian,
    Identity,
    Poisson,
    Sparse,
    Sphere,
)
from calotype.tokenizers.bottlenecks.divergences import Capacity, Decomposed
from calotype.tokenizers.bottlenecks.gumbel import Hard
from calotype.tokenizers.bottlenecks.sparsity import KLRate, L1Activity, TopK
from calotype.tokenizers.corruptions import (
    JPEG,
    Blur,
    CorruptionSpec,
    Downsampling,
    GaussianNoise,
    Grey,
    HiddenBox,
    HiddenPatches,
    Masking,
    SaltAndPepper,
)
from calotype.tokenizers.terms import (
    L2,
    BernoulliLikelihood,
    BinaryLikelihood,
    EmittedDeviation,
    GaussianLikelihood,
    LearntDeviation,
    LogitLaplace,
    Pixel,
)
from calotype.tokenizers.vector import Dense, Pooled
from calotype.training import Batch, fit
from calotype.training.distributed import leave
from calotype.training.schedules import Cosine, Linear

FALLING = Cosine(1.0, 0.1, 4)
BOTTLENECKS: dict[str, BottleneckSpec] = {
    "identity": Identity(2),
    "gaussian": Gaussian(2, kl_weight=1.0, keep_prior=True),
    "capacity": Gaussian(2, kl_weight=1.0, divergence=Capacity(Linear(0.0, 3.0, 4))),
    "decomposed": Gaussian(2, kl_weight=1.0, divergence=Decomposed(16, total_correlation=4.0)),
    "l1": Sparse(4, L1Activity()),
    "rate": Sparse(4, KLRate()),
    "top-k": Sparse(4, TopK(2)),
    "poisson": Poisson(3, temperature=FALLING),
    "bernoulli": Bernoulli(4, temperature=FALLING),
    "rbm": Bernoulli(4, RBM(3), temperature=FALLING, estimator=Hard()),
    "sphere": Sphere(),
    "circle": Circle(2),
    "causal": Causal((2, 0, 1), hidden=4),
    **tiny.BOTTLENECKS,
}
CORRUPTIONS: dict[str, CorruptionSpec | None] = {
    "none": None,
    "noise": GaussianNoise(0.3),
    "masking": Masking(),
    "salt": SaltAndPepper(),
    "blur": Blur(),
    "small": Downsampling(),
    "jpeg": JPEG(),
    "patches": HiddenPatches(size=4),
    "box": HiddenBox(4, 8),
    "grey": Grey(),
}
PIXELS: dict[str, Pixel] = {
    "l2": L2(),
    "normal": GaussianLikelihood(deviation=LearntDeviation()),
    "emitted": GaussianLikelihood(deviation=EmittedDeviation()),
    "bernoulli": BernoulliLikelihood(),
    "binary": BinaryLikelihood(),
    "logit-laplace": LogitLaplace(),
}
BACKBONES = {"map": tiny.BACKBONE, "dense": Dense((32,)), "pooled": Pooled(tiny.BACKBONE, 16)}
VECTORS = {"causal"}
"""Bottlenecks whose latents are of whole pictures: refused between maps."""
COMPARING = {"decomposed"}
"""Whose value is of a batch, not of each of its pictures."""
Names = tuple[str, str, str, str]
"""Of a backbone, bottleneck, corruption and term."""


def batch(count: int) -> Batch:
    """Pictures, and true factors for whoever learns from them."""
    return {**tiny.batch(count), "factors": factors(count)}


def factors(count: int) -> torch.Tensor:
    """Three of each picture."""
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(2))


def member(backbone: str, bottleneck: str, corruption: str, pixel: str) -> Reconstruction:
    """One of the family, with fresh weights."""
    torch.manual_seed(0)
    spec, term = BOTTLENECKS[bottleneck], PIXELS[pixel]
    autoencoder = BACKBONES[backbone].autoencoder(spec, tiny.SIZE, 3, term.maps)
    tokenizer = ImageTokenizer(autoencoder, spec.build())
    return Reconstruction(tokenizer, {"pixel": (1.0, term.build())}, tiny.adam(1e-5),
                          [tiny.images(2)], CORRUPTIONS[corruption])  # fmt: skip


def begun(objective: Reconstruction, count: int = 4) -> Reconstruction:
    """With its codes where they begin."""
    if objective.wants_survey(1, 0):
        objective.survey([batch(count)], 0)
    return objective


def train(names: Names, out: Path, **changes) -> Reconstruction:
    """Train one a little."""
    objective = member(*names)
    settings = tiny.run(out, **{"ema": None, **changes})
    out.mkdir(parents=True, exist_ok=True)
    rows = {"image": tiny.images(16), "factors": factors(16)}
    fit([objective], tiny.Repeating(rows, settings.batch_size), settings)
    return objective


def ranked(rank: int, world: int, port: int, names: Names, out: Path, settings: dict) -> None:
    """Train one as one of several ranks."""
    tiny.join(rank, world, port)
    train(names, out, **settings)
    leave()
