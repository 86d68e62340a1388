"""Tokenizer, generator, text encoder and scheduler in one stock pipeline, and how to call it."""

from calotype.pipelines.assemble import Pipeline, load, save, text_to_image, unconditional
from calotype.pipelines.sampling import Sampling, sample

__all__ = ["Pipeline", "Sampling", "load", "sample", "save", "text_to_image", "unconditional"]
