"""The bottlenecks. To add one: write its file, then name its spec in the `BottleneckSpec` union."""

from typing import Union

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.tokenizers.bottlenecks.certain import Certain
from calotype.tokenizers.bottlenecks.discrete import Discrete, Table
from calotype.tokenizers.bottlenecks.finite_scalar import FSQ, ScalarQuantizer
from calotype.tokenizers.bottlenecks.gaussian import Gaussian, GaussianBottleneck
from calotype.tokenizers.bottlenecks.gumbel import Gumbel, GumbelBottleneck
from calotype.tokenizers.bottlenecks.identity import Identity, IdentityBottleneck
from calotype.tokenizers.bottlenecks.lookup_free import BSQ, LFQ, Entropy, SignQuantizer
from calotype.tokenizers.bottlenecks.residual import RVQ, ResidualQuantizer
from calotype.tokenizers.bottlenecks.sparse import Sparse, SparseBottleneck
from calotype.tokenizers.bottlenecks.vector_quantizer import VQ, VectorQuantizer

BottleneckSpec = Gaussian | Identity | Sparse | VQ | Gumbel | LFQ | BSQ | FSQ | RVQ
Autoencoder = Union["diffusers.AutoencoderKL", "diffusers.VQModel"]
"""The stock classes around them."""

__all__ = [
    "BSQ",
    "FSQ",
    "LFQ",
    "RVQ",
    "VQ",
    "Autoencoder",
    "Bottleneck",
    "BottleneckSpec",
    "Certain",
    "Discrete",
    "Entropy",
    "Gaussian",
    "GaussianBottleneck",
    "Gumbel",
    "GumbelBottleneck",
    "Identity",
    "IdentityBottleneck",
    "Latent",
    "ResidualQuantizer",
    "ScalarQuantizer",
    "SignQuantizer",
    "Sparse",
    "SparseBottleneck",
    "Table",
    "VectorQuantizer",
]
