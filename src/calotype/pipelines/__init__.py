"""Tokenizer, generator, text encoder and scheduler in one stock pipeline, and how to call it."""

from calotype.pipelines.assemble import (
    Pipeline,
    autoencoder,
    load,
    save,
    text_to_image,
    unconditional,
)
from calotype.pipelines.sampling import Sampling, picture, sample

__all__ = [
    "Pipeline",
    "Sampling",
    "autoencoder",
    "load",
    "picture",
    "sample",
    "save",
    "text_to_image",
    "unconditional",
]
