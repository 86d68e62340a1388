"""Tokenizer, generator, text encoder and scheduler in one stock pipeline, and how to call it."""

from calotype.pipelines.adapters import save_adapter
from calotype.pipelines.assemble import (
    added_to,
    autoencoder,
    framed_text_to_image,
    is_pipeline,
    load,
    mode_of,
    recommended,
    save,
    sides,
    size_of,
    text_to_image,
    trained_by,
    unconditional,
)
from calotype.pipelines.between import Toward, Wanted, Way, between, check_between
from calotype.pipelines.editing import Over
from calotype.pipelines.pictures import picture
from calotype.pipelines.sampling import (
    Choice,
    HowToSample,
    Pipeline,
    Sampling,
    check_asked,
    checked,
    draw_batch,
    for_tokens,
    heeds,
    reads_prompts,
    sample,
    turns,
)
from calotype.pipelines.scores import best, score
from calotype.pipelines.token_parts import layout_of
from calotype.pipelines.tokens import TokenPipeline, Top, draw

__all__ = [
    "Choice",
    "HowToSample",
    "Over",
    "Pipeline",
    "Sampling",
    "TokenPipeline",
    "Top",
    "Toward",
    "Wanted",
    "Way",
    "added_to",
    "autoencoder",
    "best",
    "between",
    "check_asked",
    "check_between",
    "checked",
    "draw",
    "draw_batch",
    "for_tokens",
    "framed_text_to_image",
    "heeds",
    "is_pipeline",
    "layout_of",
    "load",
    "mode_of",
    "picture",
    "reads_prompts",
    "recommended",
    "sample",
    "save",
    "save_adapter",
    "score",
    "sides",
    "size_of",
    "text_to_image",
    "trained_by",
    "turns",
    "unconditional",
]
