"""What the encoder sees instead of pictures. To add one: write its file, name it in the union."""

from calotype.tokenizers.corruptions.base import Corrupted, Corruption
from calotype.tokenizers.corruptions.noise import GaussianNoise, Masking, SaltAndPepper
from calotype.tokenizers.corruptions.optics import JPEG, Blur, Downsampling
from calotype.tokenizers.corruptions.patches import HiddenPatches

CorruptionSpec = (
    GaussianNoise | Masking | SaltAndPepper | Blur | Downsampling | JPEG | HiddenPatches
)

__all__ = [
    "JPEG",
    "Blur",
    "Corrupted",
    "Corruption",
    "CorruptionSpec",
    "Downsampling",
    "GaussianNoise",
    "HiddenPatches",
    "Masking",
    "SaltAndPepper",
]
