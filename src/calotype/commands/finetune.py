"""Training a diffusion pipeline on in cached latents: the work."""

import warnings
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from calotype.commands.cached import check_encoded, train
from calotype.commands.quiet import quiet
from calotype.commands.train_denoiser import latent_source, settle
from calotype.data import LatentCache
from calotype.diffusion import (
    Denoising,
    LoRA,
    PretrainedText,
    TextDenoising,
    check_halved,
    places,
    process_of,
    spec_of,
    tokenize,
)
from calotype.lazy import diffusers, transformers
from calotype.pipelines import (
    Pipeline,
    Sampling,
    added_to,
    autoencoder,
    load,
    recommended,
    save,
    save_adapter,
    trained_by,
)
from calotype.pipelines.assemble import KEPT_IN
from calotype.pipelines.folders import fingerprint
from calotype.recipes.finetune import FinetuneRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers import fingerprint as latents_of
from calotype.training.network import located


def train_on(recipe: FinetuneRecipe) -> Path:
    """Train a pipeline on and save it, or of LoRA what was added to it; returns the folder,
    `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    quiet()
    if base := added_to(recipe.pipeline):
        raise ValueError(
            f"pipeline: {recipe.pipeline} holds LoRA weights and no network of its own: give "
            f"{base}, which they were trained on, or merge them into it (fuse_lora) and save that"
        )
    latents, pipeline = LatentCache(recipe.cache), load(recipe.pipeline)
    _check_kind(recipe, pipeline)
    start = fingerprint(pipeline)
    sampling = recipe.sampling or recommended(recipe.pipeline)
    assert isinstance(sampling, Sampling)
    recipe = replace(recipe, sampling=sampling)
    objective = assemble_finetuned(recipe, latents, pipeline)
    process = spec_of(objective.process)
    if isinstance(recipe.learn, LoRA):
        write: Any = partial(
            save_adapter, base=located(recipe.pipeline, *KEPT_IN), start=start,
            tokenizer=latents_of(autoencoder(pipeline)), process=process,
        )  # fmt: skip
    else:
        write = partial(save, process=process)
    return train(recipe, latents, objective, pipeline, write, {"start": start})


def assemble_finetuned(
    recipe: FinetuneRecipe, latents: LatentCache, pipeline: Pipeline
) -> Denoising:
    """What is trained, in the pipeline.

    Raises:
        ValueError: pipeline and cache do not belong together.
    """
    vae: Any = autoencoder(pipeline)
    parts: Any = pipeline
    tokenizer = ImageTokenizer.around(vae)
    check_encoded(latents, tokenizer, recipe.pipeline)
    known = trained_by(recipe.pipeline)
    process = process_of(parts.scheduler, known, recipe.times, recipe.snr_gamma)
    source, unet = latent_source(tokenizer), parts.unet
    sites = latents.index.size // tokenizer.factor
    _warn_of_size(latents, sites, pipeline, recipe.pipeline)
    torch.manual_seed(recipe.run.seed)
    if isinstance(pipeline, diffusers.LDMPipeline):
        for side in chain.from_iterable(latents.grids):
            check_halved(side, len(unet.config["block_out_channels"]) - 1)
        recipe.learn.prepare(unet, None)
        objective = Denoising(unet, source, process, recipe.optimizer)
    else:
        encoder = _text_encoder(recipe, latents, pipeline)
        recipe.learn.prepare(unet, encoder if recipe.learn_text else None)
        objective = TextDenoising(
            unet, encoder, tokenize(parts.tokenizer, [""])[0], source, process,
            recipe.optimizer, recipe.drop,
        )  # fmt: skip
    attention = ["Attn" in name for name in unet.config["down_block_types"]]
    settle(objective, places(attention, sites), recipe.gradient_checkpointing)
    return objective


def _check_kind(recipe: FinetuneRecipe, pipeline: Pipeline) -> None:
    """Refuse pipelines whose networks are told other things than these.

    Raises:
        ValueError: it is one.
    """
    kinds = (diffusers.StableDiffusionPipeline, diffusers.LDMPipeline)
    if type(pipeline) not in kinds:
        raise ValueError(
            f"{recipe.pipeline} holds a {type(pipeline).__name__}: give a StableDiffusionPipeline "
            "or an LDMPipeline; a transformer goes on by its own recipe and transformer:trained"
        )
    if recipe.learn_text and not hasattr(pipeline, "text_encoder"):
        raise ValueError(f"learn_text is on, and {recipe.pipeline} has no text encoder")


def _warn_of_size(latents: LatentCache, sites: int, pipeline: Any, name: str) -> None:
    """Say that what is learnt at one size is drawn at another."""
    own = pipeline.unet.config["sample_size"]
    if not isinstance(own, int) or own == sites:
        return
    size = latents.index.size
    drawn = size // sites * own
    warnings.warn(
        f"{latents.store} has pictures of {size} pixels a side, and {name} draws {drawn}, as what "
        f"becomes of it will: run cache-latents again with --transform.crop.size {drawn}, unless "
        "that is what you want",
        stacklevel=3,
    )


def _text_encoder(
    recipe: FinetuneRecipe, latents: LatentCache, pipeline: Any
) -> "transformers.CLIPTextModel":
    """The pipeline's own, frozen, known to be whole.

    Raises:
        ValueError: the cache's prompts are not for it.
    """
    again = f"run cache-latents again with text:pretrained-text --text.path {recipe.pipeline}"
    if latents.index.tokens is None:
        raise ValueError(f"{latents.store} has no prompts: {again}")
    made = transformers.AutoTokenizer.from_pretrained(latents.text_tokenizer)
    own = pipeline.tokenizer
    if (made.get_vocab(), made.model_max_length) != (own.get_vocab(), own.model_max_length):
        raise ValueError(
            f"the prompts of {latents.store} are tokens of another tokenizer than "
            f"{recipe.pipeline}'s: {again}"
        )
    if Path(folder := located(recipe.pipeline, *KEPT_IN)).exists():
        pipeline.register_modules(text_encoder=PretrainedText(folder).encoder(own))
    return pipeline.text_encoder.requires_grad_(False).eval()
