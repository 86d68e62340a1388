"""What a trained tokenizer is for, beside rebuilding pictures: each use a file."""

from calotype.uses.probing import Probe, Probed, probe
from calotype.uses.representations import (
    Representation,
    of_latents,
    of_pixels,
    of_vision_model,
    untrained,
)

__all__ = ["Probe", "Probed", "Representation", "of_latents", "of_pixels", "of_vision_model",
           "probe", "untrained"]  # fmt: skip
