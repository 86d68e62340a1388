"""Encoding images once, for generators: the work."""

import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import Dataset, IterableDataset

from calotype.autoregressive.text import Classes, PromptSpec
from calotype.commands.quiet import quiet
from calotype.commands.readers import readers
from calotype.data import Transform, once
from calotype.data.identity import identified
from calotype.data.latents import TEXT_TOKENIZER, Index, is_finished, write_tokens
from calotype.data.pictures import spread
from calotype.data.prompts import tokenize
from calotype.diffusion import TextSpec
from calotype.lazy import transformers
from calotype.mistakes import noted
from calotype.pipelines import added_to
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.tokenizer import image_size
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.caching import (
    Encoder,
    Prompts,
    Scan,
    cache_latents,
    finish,
    remaining,
)
from calotype.tokenizers.stock import CLASSES
from calotype.training import Run, begin
from calotype.training.devices import computing
from calotype.training.distributed import own_device, processes
from calotype.training.precision import Name, described, settled, warn_of_emulation
from calotype.training.progress import Told, say, track
from calotype.training.run import describe


def cache(recipe: CacheRecipe) -> Path:
    """Fill a latent cache; returns its folder. Several processes share the work.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any encoding.
    """
    quiet()
    if base := added_to(recipe.tokenizer):
        raise ValueError(
            f"tokenizer: {recipe.tokenizer} holds LoRA weights and no tokenizer: give {base}, "
            "which they were trained on"
        )
    size = image_size(recipe.data, recipe.transform)
    whole, state = recipe.data.build(), processes()
    first = _began_with_the_first(recipe)
    dataset = whole if first else spread(whole, recipe.count)
    recipe = replace(recipe, precision=_precision(recipe))
    warn_of_emulation(cast(Name, recipe.precision), own_device())
    tokenizer = ImageTokenizer.load(recipe.tokenizer, classes=CLASSES).to(state.device)
    tokenizer.check(size)
    encoder = Encoder(tokenizer, fingerprint(tokenizer), size, recipe.flipped,
                      getattr(torch, recipe.dtype))  # fmt: skip
    scan = Scan(recipe.transform, recipe.count, recipe.batch_size, readers(recipe.workers, whole),
                      recipe.shard_size)  # fmt: skip
    prompts = _prompts(recipe, dataset)
    state.wait_for_everyone()  # all have seen how it was begun
    known: dict[str, str] = {}
    if state.is_main_process:
        known = {} if first else identified(data=whole)
        inputs = {"tokenizer": encoder.fingerprint, "images": _number(whole), **known}
        # The tokens are made last, of captions that are kept: another text costs no encoding.
        begin(Run(recipe.out, resume=True), recipe, inputs, free=("text",))
    state.wait_for_everyone()
    if is_finished(recipe.out) and Index.read(recipe.out).text == describe(recipe.text):
        return recipe.out
    rank, world = state.process_index, state.num_processes
    total = remaining(dataset, scan, recipe.out, rank, world)
    say(_found(encoder, dataset, recipe))
    networks = computing(recipe.precision, own_device(), *tokenizer.networks)
    kept = f"{recipe.out}: whole shards are kept, and the same command goes on from there"
    with noted(lambda: kept), networks, Told("encoding", total, images=1) as told:
        cache_latents(encoder, dataset, scan, recipe.out, rank, world, told.advance)
    state.wait_for_everyone()
    if state.is_main_process:
        finish(encoder, recipe.out, prompts, known.get("data"), recipe.precision)
    state.wait_for_everyone()
    return recipe.out


def _began_with_the_first(recipe: CacheRecipe) -> bool:
    """Whether a version before began the cache: of so many pictures it took the first."""
    begun = recipe.out / "recipe.json"
    return begun.exists() and "data" not in json.loads(begun.read_text()).get("inputs", {})


def _precision(recipe: CacheRecipe) -> Name:
    """What is encoded in. Versions before, which did not say, encoded in float32."""
    begun = recipe.out / "recipe.json"
    if recipe.precision == "auto" and begun.exists():
        return json.loads(begun.read_text()).get("precision", "fp32")
    return settled(recipe.precision, own_device())


def _found(encoder: Encoder, dataset: Dataset, recipe: CacheRecipe) -> str:
    images = _number(dataset)
    what = "latents" if encoder.codes is None else "tokens"
    few = "" if recipe.count is None else f", {recipe.count} of them at most"
    return (
        f"{what} of {images} pictures{few}, {encoder.size} pixels a side, by {recipe.tokenizer}, "
        f"into {recipe.out}; on {described(own_device())}, in {recipe.precision}"
    )


def _number(dataset: Dataset) -> str:
    """How many pictures there are, if that is known."""
    streamed = isinstance(dataset, IterableDataset)
    return "streamed" if streamed else str(len(dataset))  # type: ignore[arg-type]


def _prompts(recipe: CacheRecipe, dataset: Dataset) -> Prompts | None:
    """What becomes of captions; that a tokenizer and captions are there is known before the work.

    Raises:
        ValueError: one of them is not.
    """
    if recipe.text is None:
        return None
    recipe.text.tokenizer([])
    looked_at = _some_captions(dataset, recipe.transform)
    if not any(looked_at):
        raise ValueError(
            f"text: none of {len(looked_at)} pictures looked at has a caption; choose text:none, "
            "or give captions as data's --help says"
        )
    return Prompts(partial(_write_prompts, recipe.text), describe(recipe.text))


def _some_captions(dataset: Dataset, transform: Transform | None) -> list[str]:
    """Of pictures all over a map-style dataset, or of a stream's first ones."""
    if isinstance(dataset, IterableDataset):
        return next(once(dataset, 64, transform), {"caption": []})["caption"]
    total = len(dataset)  # type: ignore[arg-type]
    return [dataset[i]["caption"] for i in range(0, total, -(-total // 64))]


MANY = 100
"""Images; in fewer each may be a class of its own."""


def _write_prompts(text: TextSpec | PromptSpec, root: Path, captions: list[str]) -> int:
    with Told(f"learning how to read {len(captions)} captions", None):
        tokenizer = text.tokenizer(captions)
    if isinstance(text, Classes) and 2 * (classes := len(set(captions))) > len(captions) > MANY:
        warnings.warn(
            f"{classes} classes in {len(captions)} images: these seem to be captions; choose "
            "text:learnt-text, or take metadata and .txt files out of the folder",
            stacklevel=2,
        )
    tokenizer.save_pretrained(root / TEXT_TOKENIZER)
    parts = [captions[i : i + 10_000] for i in range(0, len(captions), 10_000)]
    _warn_of_cut(tokenizer, parts)
    told = track(parts, "reading captions, 10,000 at a time", len(parts))
    rows = [[column.int() for column in tokenize(tokenizer, part)] for part in told]
    return write_tokens(root, *map(torch.cat, zip(*rows, strict=True)))


def _warn_of_cut(tokenizer: "transformers.PreTrainedTokenizerFast", parts: list[list[str]]) -> None:
    limit, captions = tokenizer.model_max_length, sum(map(len, parts))
    ids = (row for part in parts for row in tokenizer(part, verbose=False).input_ids)
    if cut := sum(len(row) > limit for row in ids):
        warnings.warn(
            f"{cut} of {captions} captions are longer than {limit} tokens and were cut: "
            "run it again with a longer --text.length, if what reads it takes more",
            stacklevel=2,
        )
