"""Tokenizer, generator, text encoder and scheduler in one stock pipeline, and how to call it."""

from calotype.pipelines.assemble import (
    autoencoder,
    load,
    recommended,
    save,
    text_to_image,
    unconditional,
)
from calotype.pipelines.sampling import Choice, Pipeline, Sampling, picture, sample

__all__ = [
    "Choice",
    "Pipeline",
    "Sampling",
    "autoencoder",
    "load",
    "picture",
    "recommended",
    "sample",
    "save",
    "text_to_image",
    "unconditional",
]
