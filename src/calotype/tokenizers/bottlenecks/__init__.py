"""The bottlenecks. To add one: write its file, then name its spec in the `BottleneckSpec` union."""

from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.tokenizers.bottlenecks.gaussian import Gaussian, GaussianBottleneck

BottleneckSpec = Gaussian

__all__ = ["Bottleneck", "BottleneckSpec", "Gaussian", "GaussianBottleneck", "Latent"]
