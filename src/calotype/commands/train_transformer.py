"""Training a transformer over cached tokens: the work."""

import warnings
from pathlib import Path

import torch

from calotype.autoregressive import (
    Layout,
    NextToken,
    Transformer,
    name_images,
    name_shapes,
    prompt_tokenizer,
)
from calotype.autoregressive.text import BEGIN
from calotype.commands.cached import open_cache, train
from calotype.data import LatentCache
from calotype.data.identity import digest
from calotype.lazy import transformers
from calotype.pipelines import TokenPipeline, layout_of, load
from calotype.pipelines.folders import fingerprint
from calotype.recipes.transformer import TrainedTransformer, TransformerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers import fingerprint as space_of
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
    objective, pipeline = assemble_transformer(recipe, latents, tokenizer)
    trained = isinstance(recipe.transformer, TrainedTransformer)
    begun = {"start": fingerprint(pipeline)} if trained else {}
    return train(recipe, latents, objective, pipeline, begun=begun)


def assemble_transformer(
    recipe: TransformerRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[NextToken, TokenPipeline]:
    """What is trained, with the weights that it begins with, and the pipeline around it.

    Raises:
        ValueError: the tokenizer, the prompts or a trained transformer do not go with the recipe.
    """
    torch.manual_seed(recipe.run.seed)
    pipeline = _pipeline(recipe, latents, tokenizer)
    bottleneck = tokenizer.bottleneck
    assert isinstance(bottleneck, Discrete)
    if isinstance(recipe.transformer, Transformer):
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
    if isinstance(bottleneck, Discrete) and not tokenizer.is_stock:
        warnings.warn(
            f"no stock class holds what {type(bottleneck).__name__} does: images of the "
            "transformer will be drawn by calotype, and by no stock class",
            stacklevel=3,
        )


def _pipeline(
    recipe: TransformerRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> TokenPipeline:
    if not recipe.prompted:
        layout = layout_of(0, tokenizer, latents.grids)
        return TokenPipeline(_network(recipe, layout, 0, None), None, tokenizer, layout)
    if latents.index.tokens is None:
        raise ValueError(
            f"{latents.store} has no prompts: cache it again with a text, or train with "
            "--no-prompted"
        )
    folder = latents.text_tokenizer
    prompts = prompt_tokenizer(
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    )
    layout: Layout = layout_of(len(prompts) - 1, tokenizer, latents.grids)
    network = _network(recipe, layout, latents.index.tokens, prompts)
    pipeline = TokenPipeline(network, prompts, tokenizer, layout)
    name_shapes(prompts, pipeline.shapes)
    if isinstance(tokenizer.bottleneck, Discrete) and tokenizer.is_stock:  # else none decodes them
        name_images(prompts, layout.vocabulary - layout.first)
    return pipeline


def _network(
    recipe: TransformerRecipe, layout: Layout, length: int,
    prompts: "transformers.PreTrainedTokenizerFast | None",
) -> "transformers.LlamaForCausalLM":  # fmt: skip
    """A fresh transformer for prompts of up to so many tokens, or the trained one.

    Raises:
        ValueError: that is over other tokens.
    """
    if isinstance(recipe.transformer, Transformer):
        return recipe.transformer.build(layout, length, prompts and prompts.pad_token_id)
    path = recipe.transformer.path
    found = load(path)
    if not isinstance(found, TokenPipeline):
        raise ValueError(
            f"transformer.path: {path} holds a {type(found).__name__}: give a transformer's, or "
            "choose the recipe finetune"
        )
    codes = space_of(ImageTokenizer.load(recipe.tokenizer))
    for what, own, asked in (
        ("codes of tokenizer", space_of(found.tokenizer), codes),
        ("tokens", str(found.layout), str(layout)),
        ("prompts of", _vocabulary(found.prompts), _vocabulary(prompts)),
    ):
        if own != asked:
            raise ValueError(
                f"transformer.path: {path} was trained over {what} {own}, and {recipe.cache} has "
                f"{asked}: cache with its tokenizer, its text and pictures of its size"
            )
    return found.transformer.train()


def _vocabulary(prompts: "transformers.PreTrainedTokenizerFast | None") -> str:
    """What tells text tokens from others, in words."""
    if prompts is None:
        return "no tokens"
    vocabulary = prompts.get_vocab()
    # Names of image tokens are behind these, where the version that saved it gave them some.
    known = sorted((i, name) for name, i in vocabulary.items() if i <= vocabulary[BEGIN])
    return f"{prompts.model_max_length} tokens of {digest(map(str, known))}"
