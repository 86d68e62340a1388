"""What the encoder sees instead of pictures. To add one: write its file, name it in the union."""

from calotype.tokenizers.corruptions.base import Corrupted, Corruption
from calotype.tokenizers.corruptions.noise import GaussianNoise, Masking, SaltAndPepper
from calotype.tokenizers.corruptions.optics import JPEG, Blur, Downsampling, Grey
from calotype.tokenizers.corruptions.patches import HiddenBox, HiddenPatches

CorruptionSpec = (
    GaussianNoise
    | Masking
    | SaltAndPepper
    | Blur
    | Downsampling
    | Grey
    | JPEG
    | HiddenPatches
    | HiddenBox
)

__all__ = [
    "JPEG",
    "Blur",
    "Corrupted",
    "Corruption",
    "CorruptionSpec",
    "Downsampling",
    "GaussianNoise",
    "Grey",
    "HiddenBox",
    "HiddenPatches",
    "Masking",
    "SaltAndPepper",
]
