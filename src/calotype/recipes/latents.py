"""Caching latents: the recipe's fields and its run."""

import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.progress import Progress
from torch.utils.data import Dataset, IterableDataset
from transformers import CLIPTokenizer

from calotype.data import Scenes, Source, Transform
from calotype.data.latents import TEXT_TOKENIZER, is_finished, write_tokens
from calotype.diffusion import LearntText, TextSpec, tokenize
from calotype.recipes.tokenizer import image_size
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.caching import Encoder, Reading, cache_latents, claim, finish
from calotype.training import Run, begin
from calotype.training.distributed import processes


@dataclass(frozen=True)
class CacheRecipe:
    """Encode images once, so that a generator can be trained on their latents."""

    tokenizer: str
    """Folder of a stock AutoencoderKL, such as the model/ of a train-tokenizer run, or a name on
    the Hub."""
    out: Path
    """Folder of the cache."""
    data: Source = field(default_factory=Scenes)
    transform: Transform | None = None
    """How pictures become square images; None: they are already."""
    text: TextSpec | None = field(default_factory=LearntText)
    """Whose tokens the captions become; None: no captions."""
    count: int | None = None
    """Images to encode; None: all."""
    flipped: bool = False
    """Encode each image's mirror image too; wrong where captions say left and right."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored moments."""
    batch_size: int = 64
    workers: int = 0
    shard_size: int = 8192
    """Rows in a shard; a run that was stopped continues at the next one."""


def cache(recipe: CacheRecipe) -> Path:
    """Fill a latent cache; returns its folder. Several processes share the work.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any encoding.
    """
    size, dataset = image_size(recipe.data, recipe.transform), recipe.data.build()
    state = processes()
    tokenizer = ImageTokenizer.load(recipe.tokenizer).to(state.device)
    encoder = Encoder(tokenizer, fingerprint(tokenizer.autoencoder), size, recipe.flipped,
                      getattr(torch, recipe.dtype))  # fmt: skip
    reading = Reading(recipe.transform, recipe.count, recipe.batch_size, recipe.workers,
                      recipe.shard_size)  # fmt: skip
    if recipe.text:
        recipe.text.tokenizer([])  # that it is there is known before the long work
    if state.is_main_process:
        begin(Run(recipe.out, resume=True), recipe)
        claim(encoder, recipe.out)
    state.wait_for_everyone()
    if is_finished(recipe.out):
        return recipe.out
    with Progress(disable=not state.is_main_process) as bar:
        task = bar.add_task("encoding", total=_total(recipe.count, dataset))
        cache_latents(encoder, dataset, reading, recipe.out, state.process_index,
                      state.num_processes, lambda rows: bar.advance(task, rows))  # fmt: skip
    state.wait_for_everyone()
    if state.is_main_process:
        finish(encoder, recipe.out, partial(_write_prompts, recipe.text) if recipe.text else None)
    state.wait_for_everyone()
    return recipe.out


def _total(count: int | None, dataset: Dataset) -> int | None:
    """Images to encode; None: only the stream's end will tell."""
    if isinstance(dataset, IterableDataset):
        return count
    there = len(dataset)  # type: ignore[arg-type]
    return there if count is None else min(count, there)


def _write_prompts(text: TextSpec, root: Path, captions: list[str]) -> int:
    if not any(captions):
        raise ValueError("text: the data source has no captions; choose text:none")
    tokenizer = text.tokenizer(captions)
    _warn_of_cut(tokenizer, captions)
    tokenizer.save_pretrained(root / TEXT_TOKENIZER)
    return write_tokens(root, tokenize(tokenizer, captions).int())


def _warn_of_cut(tokenizer: CLIPTokenizer, captions: list[str]) -> None:
    limit = tokenizer.model_max_length
    cut = sum(len(ids) > limit for ids in tokenizer(captions, verbose=False).input_ids)
    if cut:
        warnings.warn(
            f"{cut} of {len(captions)} captions are longer than {limit} tokens and were cut: "
            "raise text.length, if the text encoder takes more",
            stacklevel=2,
        )
