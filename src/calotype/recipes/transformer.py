"""Training a transformer over cached tokens: the recipe's fields and its run."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer

from calotype.autoregressive import (
    Annealed,
    Layout,
    NextToken,
    Order,
    Raster,
    TokenSampling,
    Transformer,
    prompt_tokenizer,
)
from calotype.data import LatentCache
from calotype.data.latents import TEXT_TOKENIZER
from calotype.pipelines import TokenPipeline, layout_of
from calotype.recipes.cached import check_drop, open_cache, train
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.training import AdamW, Run
from calotype.training.attention import plain_is_faster


@dataclass(frozen=True)
class TransformerRecipe:
    """Train an autoregressive transformer over cached ids of codes and their prompts."""

    tokenizer: str
    """The tokenizer that encoded them: its folder, or its name on the Hub."""
    latents: Path
    """Folder of the cache."""
    transformer: Transformer = field(default_factory=Transformer)
    prompted: bool = True
    """Whether it reads prompts, or classes where the cache's text is that; no: unconditional."""
    order: Order = field(default_factory=Raster)
    """In which order an image's tokens are learnt."""
    drop: float = 0.1
    """Fraction of prompts that are left out, so that guidance can be used."""
    image_weight: float = 7.0
    """Of the image tokens' loss beside that of text, which weighs 1 (Ramesh et al. 2021)."""
    optimizer: AdamW = field(default_factory=AdamW)
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    held_out: int = 0
    """Samples of the cache, evenly spread, that are not trained on: their losses are measured every
    `run.evaluate_every` steps."""
    prompts: tuple[str, ...] = ()
    """Prompts of the pictures in samples/; none: captions from all over
    the cache."""
    sampling: TokenSampling = field(default_factory=TokenSampling)
    """How those pictures are drawn, and `calotype generate` unless told otherwise."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_drop(self.drop)
        if not self.image_weight > 0:
            raise ValueError(f"image_weight is {self.image_weight}: it must be positive")
        if isinstance(self.order, Annealed) and self.order.end > self.run.steps:
            raise ValueError(
                f"order.end is {self.order.end}, but run.steps is {self.run.steps}: images are "
                "drawn row by row, so random orders must have faded by then"
            )


def train_transformer(recipe: TransformerRecipe) -> Path:
    """Train and save a pipeline, which stock transformers and diffusers load if there is a stock
    class for the tokenizer; returns its folder, `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    latents, tokenizer = open_cache(recipe)
    _warn_of_no_stock_class(tokenizer)
    torch.manual_seed(recipe.run.seed)
    pipeline = _pipeline(recipe, latents, tokenizer)
    pipeline.encode(recipe.prompts or ("",))  # a wrong one is seen before training, not in it
    if recipe.gradient_checkpointing:
        pipeline.transformer.gradient_checkpointing_enable()
    if plain_is_faster(pipeline.transformer.config.max_position_embeddings):
        pipeline.transformer.set_attn_implementation("eager")
    objective = NextToken(
        pipeline.transformer, pipeline.layout, recipe.order, recipe.optimizer, recipe.drop,
        recipe.image_weight, recipe.prompted,
    )  # fmt: skip
    return train(recipe, latents, objective, pipeline)


def _warn_of_no_stock_class(tokenizer: ImageTokenizer) -> None:
    bottleneck = tokenizer.bottleneck
    if isinstance(bottleneck, Discrete) and not bottleneck.exported:
        warnings.warn(
            f"no stock class holds what {type(bottleneck).__name__} does: images of the "
            "transformer will be drawn by calotype, and by no stock class",
            stacklevel=3,
        )


def _pipeline(
    recipe: TransformerRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> TokenPipeline:
    length = latents[0]["packed"].numel()
    if not recipe.prompted:
        layout = layout_of(0, tokenizer, length)
        return TokenPipeline(recipe.transformer.build(layout, 0), None, tokenizer, layout)
    if latents.index.tokens is None:
        raise ValueError(
            f"{latents.root} has no prompts: cache it again with a text, or train with "
            "--no-prompted"
        )
    folder = latents.root / TEXT_TOKENIZER
    prompts = prompt_tokenizer(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    layout: Layout = layout_of(len(prompts) - 1, tokenizer, length)
    network = recipe.transformer.build(layout, latents.index.tokens, prompts.pad_token_id)
    return TokenPipeline(network, prompts, tokenizer, layout)
