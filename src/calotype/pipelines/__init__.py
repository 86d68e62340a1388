"""Tokenizer, generator, text encoder and scheduler in one stock pipeline, and how to call it."""

from calotype.pipelines.adapters import save_adapter
from calotype.pipelines.assemble import (
    autoencoder,
    is_pipeline,
    load,
    recommended,
    save,
    size_of,
    text_to_image,
    trained_by,
    unconditional,
)
from calotype.pipelines.sampling import (
    Choice,
    HowToSample,
    Pipeline,
    Sampling,
    checked,
    for_tokens,
    heeds,
    picture,
    reads_prompts,
    sample,
    turns,
)
from calotype.pipelines.tokens import TokenPipeline, Top, best, draw, layout_of, score

__all__ = [
    "Choice",
    "HowToSample",
    "Pipeline",
    "Sampling",
    "TokenPipeline",
    "Top",
    "autoencoder",
    "best",
    "checked",
    "draw",
    "for_tokens",
    "heeds",
    "is_pipeline",
    "layout_of",
    "load",
    "picture",
    "reads_prompts",
    "recommended",
    "sample",
    "save",
    "save_adapter",
    "score",
    "size_of",
    "text_to_image",
    "trained_by",
    "turns",
    "unconditional",
]
