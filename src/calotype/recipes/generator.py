"""Training a generator in cached latents: the recipe's fields and its run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from calotype.data import LatentCache
from calotype.data.latents import TEXT_TOKENIZER
from calotype.diffusion import (
    Denoising,
    Flow,
    LatentSource,
    LearntText,
    ProcessSpec,
    TextDenoising,
    TextSpec,
    UNet,
    attend_plainly,
    tokenize,
)
from calotype.pipelines import Pipeline, Sampling, text_to_image, unconditional
from calotype.recipes.cached import check_drop, open_cache, train
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.bottlenecks.lookup_free import MOST_EXPORTED_BITS
from calotype.training import AdamW, Run
from calotype.training.attention import plain_is_faster
from calotype.training.distributed import processes
from calotype.training.run import describe


@dataclass(frozen=True)
class GeneratorRecipe:
    """Train a diffusion model in cached latents."""

    tokenizer: str
    """The tokenizer that encoded them: its folder, or its name on the Hub."""
    latents: Path
    """Folder of the latent cache."""
    unet: UNet = field(default_factory=UNet)
    process: ProcessSpec = field(default_factory=Flow)
    text: TextSpec | None = field(default_factory=LearntText)
    """The text encoder; None: unconditional."""
    drop: float = 0.1
    """Fraction of prompts that are replaced by the empty one, so that guidance can be used."""
    optimizer: AdamW = field(default_factory=AdamW)
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    held_out: int = 0
    """Samples of the cache, evenly spread, that are not trained on: their losses are measured every
    `run.evaluate_every` steps."""
    prompts: tuple[str, ...] = ()
    """Prompts of the pictures in samples/; none: captions from all over
    the cache."""
    sampling: Sampling = field(default_factory=Sampling)
    """How those pictures are drawn, and `calotype generate` unless told otherwise."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_drop(self.drop)


def train_generator(recipe: GeneratorRecipe) -> Path:
    """Train and save a stock pipeline; returns its folder, `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    latents, tokenizer = open_cache(recipe)
    _check_pipeline(recipe, tokenizer)
    torch.manual_seed(recipe.run.seed)
    build = _text_to_image if recipe.text else _unconditional
    objective, pipeline = build(recipe, latents, tokenizer)
    if plain_is_faster(recipe.unet.places(_shape(latents, tokenizer)[0])):
        attend_plainly(objective.unet)
    return train(recipe, latents, objective, pipeline)


def _check_pipeline(recipe: GeneratorRecipe, tokenizer: ImageTokenizer) -> None:
    """Refuse latents that no stock pipeline decodes.

    Raises:
        ValueError: there is no class for the tokenizer, or none that reads a text too.
    """
    bottleneck = tokenizer.bottleneck
    if not isinstance(bottleneck, Discrete):
        return
    if not bottleneck.exported:
        raise ValueError(
            f"{recipe.tokenizer} has a {type(bottleneck).__name__}, which no stock pipeline "
            "decodes: choose a tokenizer with a stock class, Gaussian, VQ, Gumbel, or LFQ or BSQ "
            f"of no more than {MOST_EXPORTED_BITS} bits"
        )
    if recipe.text:
        raise ValueError(
            f"{recipe.tokenizer} has codes, and StableDiffusionPipeline decodes none: train a "
            "transformer, as scenes-ar does, or with text:none, or in an AutoencoderKL's latents"
        )


def _check_text(text: TextSpec, latents: LatentCache) -> None:
    """Refuse to read tokens otherwise than they were made.

    Raises:
        ValueError: the cache has none, or of no text encoder, or of another vocabulary or length.
    """
    if latents.index.tokens is None or not (made := latents.index.text):
        raise ValueError(
            f"{latents.root} has no prompts: cache it again with a text, or train with text:none"
        )
    if made["type"] not in {kind.__name__ for kind in get_args(TextSpec)}:
        raise ValueError(
            f"the prompts of {latents.root} were made with {made['type']}, which no text encoder "
            "reads: run cache-latents again with text:learnt-text, or train with text:none"
        )
    asked = describe(text)
    for name in ("type", "length", "vocabulary"):
        if (was := made.get(name)) != (now := asked.get(name)):
            raise ValueError(
                f"text.{name} is {now}, but the prompts of {latents.root} were made with {was}: "
                "give that, or run cache-latents again with this one"
            )


def _source(tokenizer: ImageTokenizer) -> LatentSource:
    # What looks ids up is no part of what is trained, so that nothing else moves it.
    bottleneck = tokenizer.bottleneck.to(processes().device)
    return LatentSource(bottleneck, tokenizer.autoencoder.config["scaling_factor"])


def _shape(latents: LatentCache, tokenizer: ImageTokenizer) -> tuple[int, int]:
    """Sites a side and channels of a latent."""
    packed = latents[0]["packed"]
    return packed.shape[-1], tokenizer.bottleneck.z_channels


def _text_to_image(
    recipe: GeneratorRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[Denoising, Pipeline]:
    assert recipe.text
    _check_text(recipe.text, latents)
    vae = tokenizer.autoencoder
    assert isinstance(vae, AutoencoderKL)
    prompts = CLIPTokenizer.from_pretrained(recipe.latents / TEXT_TOKENIZER)
    encoder = recipe.text.encoder(prompts)
    unet = recipe.unet.conditional(*_shape(latents, tokenizer), encoder.config.hidden_size)
    if recipe.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    objective = TextDenoising(
        unet, encoder, tokenize(prompts, [""])[0], _source(tokenizer), recipe.process,
        recipe.optimizer, recipe.drop,
    )  # fmt: skip
    return objective, text_to_image(vae, unet, recipe.process.scheduler(), encoder, prompts)


def _unconditional(
    recipe: GeneratorRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[Denoising, Pipeline]:
    unet = recipe.unet.unconditional(*_shape(latents, tokenizer))
    if recipe.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    objective = Denoising(unet, _source(tokenizer), recipe.process, recipe.optimizer)
    return objective, unconditional(tokenizer.autoencoder, unet, recipe.process.scheduler())
