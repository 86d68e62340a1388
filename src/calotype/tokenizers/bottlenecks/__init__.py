"""The bottlenecks. To add one: write its file, then name its spec in the `BottleneckSpec` union."""

from diffusers import AutoencoderKL, VQModel

from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.tokenizers.bottlenecks.discrete import Discrete, Table
from calotype.tokenizers.bottlenecks.gaussian import Gaussian, GaussianBottleneck
from calotype.tokenizers.bottlenecks.vector_quantizer import VQ, VectorQuantizer

BottleneckSpec = Gaussian | VQ
Autoencoder = AutoencoderKL | VQModel
"""The stock classes around them."""

__all__ = [
    "VQ",
    "Autoencoder",
    "Bottleneck",
    "BottleneckSpec",
    "Discrete",
    "Gaussian",
    "GaussianBottleneck",
    "Latent",
    "Table",
    "VectorQuantizer",
]
