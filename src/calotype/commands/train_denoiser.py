"""Training a diffusion model in cached latents: the work."""

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import get_args

import torch

from calotype.commands.cached import open_cache, train
from calotype.data import LatentCache
from calotype.diffusion import (
    Denoising,
    FramedDenoising,
    LatentSource,
    LearntText,
    TextDenoising,
    TextSpec,
    attend_plainly,
    tokenize,
)
from calotype.lazy import diffusers, transformers
from calotype.pipelines import (
    Pipeline,
    framed_text_to_image,
    save,
    text_to_image,
    unconditional,
)
from calotype.recipes.generator import GeneratorRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.bottlenecks.lookup_free import MOST_EXPORTED_BITS
from calotype.training.attention import plain_is_faster
from calotype.training.description import describe
from calotype.training.distributed import processes


def train_denoiser(recipe: GeneratorRecipe) -> Path:
    """Train and save a stock pipeline; returns its folder, `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    latents, tokenizer = open_cache(recipe)
    recipe = _as_it_saw(recipe, latents)
    write = partial(save, process=recipe.process)
    return train(recipe, latents, *assemble_denoiser(recipe, latents, tokenizer), write)


def _as_it_saw(recipe: GeneratorRecipe, latents: LatentCache) -> GeneratorRecipe:
    """The recipe, by which images are drawn as if of pictures of a usual size, where the network is
    told sizes: of the drawn size it has hardly seen any.

    Raises:
        ValueError: the network is to be told frames that the cache did not keep.
    """
    if recipe.frames is None:
        return recipe
    if not latents.index.frames:
        raise ValueError(
            f"frames: {latents.store} does not know how large its pictures were: run cache-latents "
            "with --frames into another folder, or train with frames:none"
        )
    if recipe.sampling.original_size is not None:
        return recipe
    rows = {i * len(latents) // LOOKED_AT for i in range(LOOKED_AT)}
    sizes = torch.stack([latents[i]["frame"][:2] for i in sorted(rows)])
    usual = sizes.median(0).values.tolist()
    return replace(recipe, sampling=replace(recipe.sampling, original_size=tuple(usual)))


LOOKED_AT = 256
"""Rows, from all over a cache, that tell how large its pictures were."""


def assemble_denoiser(
    recipe: GeneratorRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[Denoising, Pipeline]:
    """What is trained, with fresh weights, and the pipeline around it.

    Raises:
        ValueError: the tokenizer or the prompts do not go with the recipe.
    """
    _check_pipeline(recipe, tokenizer)
    if not recipe.text:  # one that reads a text finds back to any shape
        for side in chain.from_iterable(latents.grids):
            recipe.unet.check(side)
    torch.manual_seed(recipe.run.seed)
    build = _text_to_image if recipe.text else _unconditional
    build = _framed if recipe.frames else build
    objective, pipeline = build(recipe, latents, tokenizer)
    sites = recipe.unet.places(_shape(latents, tokenizer)[0])
    settle(objective, sites, recipe.gradient_checkpointing)
    return objective, pipeline


def settle(objective: Denoising, sites: int, checkpointing: bool) -> None:
    """Make networks as training has them.

    Args:
        objective: Theirs.
        sites: Of the largest feature map that attends to itself.
        checkpointing: Compute activations twice to hold fewer of them.
    """
    if checkpointing:
        objective.unet.enable_gradient_checkpointing()
    if plain_is_faster(sites):
        attend_plainly(objective.unet)
    if isinstance(objective, TextDenoising):
        encoder = objective.text_encoder
        if plain_is_faster(encoder.config.max_position_embeddings):
            encoder.set_attn_implementation("eager")


def _check_pipeline(recipe: GeneratorRecipe, tokenizer: ImageTokenizer) -> None:
    """Refuse latents that no stock pipeline decodes.

    Raises:
        ValueError: there is no class for the tokenizer, or none that reads a text too.
    """
    bottleneck = tokenizer.bottleneck
    if not tokenizer.is_stock:
        raise ValueError(
            f"{recipe.tokenizer} has a {type(bottleneck).__name__}, which no stock pipeline "
            "decodes: choose a tokenizer with a stock class, Gaussian, VQ, Gumbel, or LFQ or BSQ "
            f"of no more than {MOST_EXPORTED_BITS} bits"
        )
    if isinstance(bottleneck, Discrete) and recipe.text:
        raise ValueError(
            f"{recipe.tokenizer} has codes, and StableDiffusionPipeline decodes none: train a "
            "transformer, as small-ar does, or with text:none, or in an AutoencoderKL's latents"
        )


def _check_text(text: TextSpec, latents: LatentCache) -> None:
    """Refuse to read tokens otherwise than they were made.

    Raises:
        ValueError: the cache has none, or of no text encoder, or of another vocabulary or length.
    """
    if latents.index.tokens is None or not (made := latents.index.text):
        raise ValueError(
            f"{latents.store} has no prompts: cache it again with a text, or train with text:none"
        )
    if made["type"] not in {kind.__name__ for kind in get_args(TextSpec)}:
        raise ValueError(
            f"the prompts of {latents.store} were made with {made['type']}, which no text encoder "
            "reads: run cache-latents again with text:learnt-text, or train with text:none"
        )
    asked = describe(text)
    for name in ("type", "length", "vocabulary"):
        if (was := made.get(name)) != (now := asked.get(name)):
            raise ValueError(
                f"text.{name} is {now}, but the prompts of {latents.store} were made with {was}: "
                "give that, or run cache-latents again with this one"
            )


def latent_source(tokenizer: ImageTokenizer) -> LatentSource:
    """How the rows of its cache become latents, where training computes."""
    # What looks ids up is no part of what is trained, so that nothing else moves it.
    bottleneck = tokenizer.bottleneck.to(processes().device)
    scaling = tokenizer.autoencoder.config["scaling_factor"]
    return LatentSource(bottleneck, scaling, tokenizer.factor)


def _shape(latents: LatentCache, tokenizer: ImageTokenizer) -> tuple[int, int]:
    """Sites a side, of several shapes those of the square, and channels of a latent."""
    return latents.index.size // tokenizer.factor, tokenizer.bottleneck.z_channels


def _text_to_image(
    recipe: GeneratorRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[Denoising, Pipeline]:
    assert recipe.text
    vae, prompts = _read(recipe.text, latents, tokenizer)
    encoder = recipe.text.encoder(prompts)
    unet = recipe.unet.conditional(*_shape(latents, tokenizer), encoder.config.hidden_size)
    objective = TextDenoising(
        unet, encoder, tokenize(prompts, [""])[0], latent_source(tokenizer), recipe.process,
        recipe.optimizer, recipe.drop,
    )  # fmt: skip
    return objective, text_to_image(vae, unet, recipe.process.scheduler(), encoder, prompts)


def _framed(
    recipe: GeneratorRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[Denoising, Pipeline]:
    assert isinstance(recipe.text, LearntText) and recipe.frames
    vae, prompts = _read(recipe.text, latents, tokenizer)
    encoder = recipe.text.projecting_encoder(prompts)
    unet = recipe.unet.conditional(*_shape(latents, tokenizer), recipe.text.width, recipe.frames)
    objective = FramedDenoising(
        unet, encoder, tokenize(prompts, [""])[0], latent_source(tokenizer), recipe.process,
        recipe.optimizer, recipe.drop,
    )  # fmt: skip
    return objective, framed_text_to_image(vae, unet, recipe.process.scheduler(), encoder, prompts)


def _read(
    text: TextSpec, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple["diffusers.AutoencoderKL", "transformers.CLIPTokenizer"]:
    """What decodes the latents, and whose tokens the prompts are."""
    _check_text(text, latents)
    vae = tokenizer.autoencoder
    assert isinstance(vae, diffusers.AutoencoderKL)
    return vae, transformers.CLIPTokenizer.from_pretrained(latents.text_tokenizer)


def _unconditional(
    recipe: GeneratorRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[Denoising, Pipeline]:
    unet = recipe.unet.unconditional(*_shape(latents, tokenizer))
    objective = Denoising(unet, latent_source(tokenizer), recipe.process, recipe.optimizer)
    return objective, unconditional(tokenizer.autoencoder, unet, recipe.process.scheduler())
