"""The bottlenecks. To add one: write its file, then name its spec in the `BottleneckSpec` union."""

from typing import Union

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.annealed import Annealed
from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.tokenizers.bottlenecks.bernoulli import RBM, Bernoulli, Factorised
from calotype.tokenizers.bottlenecks.causal import Causal
from calotype.tokenizers.bottlenecks.certain import Certain
from calotype.tokenizers.bottlenecks.discrete import Discrete, Table
from calotype.tokenizers.bottlenecks.finite_scalar import FSQ, ScalarQuantizer
from calotype.tokenizers.bottlenecks.gaussian import Gaussian, GaussianBottleneck
from calotype.tokenizers.bottlenecks.gumbel import Gumbel, GumbelBottleneck
from calotype.tokenizers.bottlenecks.identity import Identity, IdentityBottleneck
from calotype.tokenizers.bottlenecks.lookup_free import BSQ, LFQ, Entropy, SignQuantizer
from calotype.tokenizers.bottlenecks.poisson import Poisson
from calotype.tokenizers.bottlenecks.residual import RVQ, ResidualQuantizer
from calotype.tokenizers.bottlenecks.sparse import Sparse, SparseBottleneck
from calotype.tokenizers.bottlenecks.sphere import Circle, Sphere
from calotype.tokenizers.bottlenecks.vector_quantizer import VQ, VectorQuantizer

BottleneckSpec = (
    Gaussian | Identity | Sparse | Poisson | Bernoulli | Sphere | Circle | Causal
    | VQ | Gumbel | LFQ | BSQ | FSQ | RVQ
)  # fmt: skip
Autoencoder = Union["diffusers.AutoencoderKL", "diffusers.VQModel"]
"""The stock classes around them."""

__all__ = [
    "BSQ",
    "FSQ",
    "LFQ",
    "RBM",
    "RVQ",
    "VQ",
    "Annealed",
    "Autoencoder",
    "Bernoulli",
    "Bottleneck",
    "BottleneckSpec",
    "Causal",
    "Certain",
    "Circle",
    "Discrete",
    "Entropy",
    "Factorised",
    "Gaussian",
    "GaussianBottleneck",
    "Gumbel",
    "GumbelBottleneck",
    "Identity",
    "IdentityBottleneck",
    "Latent",
    "Poisson",
    "ResidualQuantizer",
    "ScalarQuantizer",
    "SignQuantizer",
    "Sparse",
    "SparseBottleneck",
    "Sphere",
    "Table",
    "VectorQuantizer",
]
