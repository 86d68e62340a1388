"""Image tokenizers: encoder, bottleneck, decoder, and the terms that make them good."""

from calotype.tokenizers.backbone import Backbone
from calotype.tokenizers.bottlenecks import VQ, Gaussian, Latent
from calotype.tokenizers.continuing import go_on, kept_of, take_up
from calotype.tokenizers.critic import Critic
from calotype.tokenizers.inheritance import inherit
from calotype.tokenizers.latent_space import LatentStatistics, fingerprint, fold, measure
from calotype.tokenizers.objectives import Reconstruction, psnr
from calotype.tokenizers.stock import factor, load_autoencoder
from calotype.tokenizers.tiling import Tiling
from calotype.tokenizers.tokenizer import ImageTokenizer

__all__ = [
    "VQ",
    "Backbone",
    "Critic",
    "Gaussian",
    "ImageTokenizer",
    "Latent",
    "LatentStatistics",
    "Reconstruction",
    "Tiling",
    "factor",
    "fingerprint",
    "fold",
    "go_on",
    "inherit",
    "kept_of",
    "load_autoencoder",
    "measure",
    "psnr",
    "take_up",
]
