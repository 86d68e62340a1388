"""What a trained tokenizer is for, beside rebuilding pictures.

`exploring`, by `paths`, `attributes`, `maps` and `codes`: what is in its latents.
`probing`, by `representations`: how much of labels they tell, beside controls.
`augmenting`, by `resampling` and `classifiers`: more pictures of rare classes, and what is gained.
`robustness`: attacks on pictures, what chains mend of it, and purified classifiers.
`detection`: pictures that are unlike normal ones, and where.
`restoration`: damaged pictures given back.
`compression`: small files whose latents come back exactly.
`estimators` and `resampler`: rows of numbers in the manner of scikit-learn, which these import.
"""

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
