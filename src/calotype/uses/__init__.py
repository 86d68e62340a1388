"""What a trained tokenizer is for, beside rebuilding pictures: each use a file."""

from calotype.uses.attributes import direction
from calotype.uses.augmenting import augmented
from calotype.uses.maps import Principal, Umap
from calotype.uses.paths import energy, geodesic, linear, spherical
from calotype.uses.probing import Probe, Probed, probe
from calotype.uses.representations import (
    Representation,
    of_latents,
    of_pixels,
    of_vision_model,
    untrained,
)
from calotype.uses.resampling import Interpolation
from calotype.uses.restoration import restore
from calotype.uses.robustness import PGD, Purified, corrected, pgd

__all__ = ["PGD", "Interpolation", "Principal", "Probe", "Probed", "Purified", "Representation",
           "Umap", "augmented", "corrected", "direction", "energy", "geodesic", "linear",
           "of_latents", "of_pixels", "of_vision_model", "pgd", "probe", "restore", "spherical",
           "untrained"]  # fmt: skip
