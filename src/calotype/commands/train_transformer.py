"""Training a transformer over cached tokens: the work."""

import warnings
from pathlib import Path

import torch

from calotype.autoregressive import (
    Layout,
    NextToken,
    name_images,
    prompt_tokenizer,
)
from calotype.commands.cached import open_cache, train
from calotype.data import LatentCache
from calotype.data.latents import TEXT_TOKENIZER
from calotype.lazy import transformers
from calotype.pipelines import TokenPipeline, layout_of
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.training.attention import plain_is_faster


def train_transformer(recipe: TransformerRecipe) -> Path:
    """Train and save a pipeline, which stock transformers and diffusers load if there is a stock
    class for the tokenizer; returns its folder, `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    latents, tokenizer = open_cache(recipe)
    _warn_of_no_stock_class(tokenizer)
    return train(recipe, latents, *assemble_transformer(recipe, latents, tokenizer))


def assemble_transformer(
    recipe: TransformerRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[NextToken, TokenPipeline]:
    """What is trained, with fresh weights, and the pipeline around it.

    Raises:
        ValueError: the tokenizer or the prompts do not go with the recipe.
    """
    torch.manual_seed(recipe.run.seed)
    pipeline = _pipeline(recipe, latents, tokenizer)
    bottleneck = tokenizer.bottleneck
    assert isinstance(bottleneck, Discrete)
    recipe.init(pipeline.transformer, pipeline.layout, bottleneck.code_vectors())
    pipeline.encode(recipe.prompts or ("",))  # a wrong one is seen before training, not in it
    return next_token(recipe, pipeline.transformer, pipeline.layout), pipeline


def next_token(
    recipe: TransformerRecipe, network: "transformers.LlamaForCausalLM", layout: Layout
) -> NextToken:
    """What the recipe minimises, and the network as training has it."""
    if recipe.gradient_checkpointing:
        network.gradient_checkpointing_enable()
    if plain_is_faster(network.config.max_position_embeddings):
        network.set_attn_implementation("eager")
    return NextToken(
        network, layout, recipe.order, recipe.optimizer, recipe.drop, recipe.image_weight,
        recipe.prompted,
    )  # fmt: skip


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
    prompts = prompt_tokenizer(
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    )
    layout: Layout = layout_of(len(prompts) - 1, tokenizer, length)
    bottleneck = tokenizer.bottleneck
    if isinstance(bottleneck, Discrete) and bottleneck.exported:  # else no stock class decodes them
        name_images(prompts, layout.vocabulary - layout.first)
    network = recipe.transformer.build(layout, latents.index.tokens, prompts.pad_token_id)
    return TokenPipeline(network, prompts, tokenizer, layout)
