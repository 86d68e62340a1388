"""Training a generator in cached latents: the recipe's fields and its run."""

import hashlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from calotype.data import LatentCache, Loader
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
    tokenize,
)
from calotype.pipelines import Pipeline, Sampling, sample, save, text_to_image, unconditional
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.bottlenecks.lookup_free import MOST_EXPORTED_BITS
from calotype.training import AdamW, Run, begin, fit
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
    prompts: tuple[str, ...] = ()
    """Prompts of the pictures in samples/; none: the cache's first captions."""
    sampling: Sampling = field(default_factory=Sampling)
    """How those pictures are drawn, and `calotype generate` unless told otherwise."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(
                f"drop is {self.drop}: it is the fraction of prompts left out, below 1"
            )


def train_generator(recipe: GeneratorRecipe) -> Path:
    """Train and save a stock pipeline; returns its folder, `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    latents = LatentCache(recipe.latents)
    tokenizer = ImageTokenizer.load(recipe.tokenizer)
    _check_pipeline(recipe, tokenizer)
    _check_tokenizer(recipe, latents, tokenizer)
    torch.manual_seed(recipe.run.seed)
    build = _text_to_image if recipe.text else _unconditional
    objective, pipeline = build(recipe, latents, tokenizer)
    state = processes()
    if state.is_main_process:
        begin(
            recipe.run, recipe, {"latents": latents.index.tokenizer, "text": _vocabulary(latents)}
        )
    state.wait_for_everyone()
    objective.picture = partial(_picture, recipe, latents, pipeline)
    fit([objective], Loader(latents, recipe.run.batch_size, seed=recipe.run.seed,
                            workers=recipe.run.workers), recipe.run)  # fmt: skip
    if state.is_main_process:
        save(pipeline, recipe.run.model, recipe.sampling)
    state.wait_for_everyone()
    return recipe.run.model


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
            f"{recipe.tokenizer} has codes, and StableDiffusionPipeline decodes none: train with "
            "text:none, or in the latents of an AutoencoderKL"
        )


def _check_tokenizer(
    recipe: GeneratorRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> None:
    if (found := fingerprint(tokenizer)) != latents.index.tokenizer:
        raise ValueError(
            f"{recipe.latents} was encoded by tokenizer {latents.index.tokenizer}, but "
            f"{recipe.tokenizer} is {found}: give that one, or run cache-latents again"
        )


def _vocabulary(latents: LatentCache) -> str:
    """Fingerprint of what the prompts' tokens mean, and how many there are."""
    file = latents.root / TEXT_TOKENIZER / "tokenizer.json"
    if not file.exists():
        return "none"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return f"{digest}, {latents.index.tokens} tokens"


def _check_text(text: TextSpec, latents: LatentCache) -> None:
    """Refuse to read tokens otherwise than they were made.

    Raises:
        ValueError: the cache has none, or of another vocabulary or length.
    """
    if latents.index.tokens is None or not (made := latents.index.text):
        raise ValueError(
            f"{latents.root} has no prompts: cache it again with a text, or train with text:none"
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


def _picture(recipe: GeneratorRecipe, latents: LatentCache, pipeline: Pipeline) -> Tensor:
    prompts = recipe.prompts or latents.captions[:16]
    device = pipeline.unet.device
    pipeline.to(device)
    return torch.cat(list(sample(pipeline, prompts, range(len(prompts)), recipe.sampling)))
