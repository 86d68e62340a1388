"""What training in a cache of latents is, whichever generator it is for."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from calotype.autoregressive import NextToken
from calotype.commands.quiet import quiet
from calotype.commands.readers import readers
from calotype.commands.validation import of_generator
from calotype.commands.watching import Watcher
from calotype.data import LatentCache, Loader
from calotype.diffusion import Denoising
from calotype.mistakes import noted
from calotype.pipelines import HowToSample, Pipeline, TokenPipeline, reads_prompts, sample, save
from calotype.recipes.cached import CachedRecipe
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.stock import CLASSES
from calotype.training import fit
from calotype.training.agreement import by_main
from calotype.training.distributed import own_device, processes
from calotype.training.division import Division, shared
from calotype.training.hosts import hand_out
from calotype.training.learner import check_compiled
from calotype.training.start import count, started


def open_cache(recipe: CachedRecipe) -> tuple[LatentCache, ImageTokenizer]:
    """The cache, and the tokenizer that encoded it.

    Raises:
        ValueError, FileNotFoundError: one of them is not there, or they do not belong together.
    """
    quiet()
    shared(recipe.run.batch_size, processes().num_processes)
    latents = LatentCache(recipe.cache)
    check_compiled(recipe.run.compile, len(latents.grids))
    tokenizer = ImageTokenizer.load(recipe.tokenizer, classes=CLASSES)
    check_encoded(latents, tokenizer, recipe.tokenizer)
    return latents, tokenizer


def check_encoded(latents: LatentCache, tokenizer: ImageTokenizer, name: str) -> None:
    """Refuse a cache of another tokenizer.

    Raises:
        ValueError: it is one.
    """
    if (found := fingerprint(tokenizer)) != latents.index.tokenizer:
        raise ValueError(
            f"{latents.store} was encoded by tokenizer {latents.index.tokenizer}, but "
            f"{name} is {found}: give that one, or run cache-latents again"
        )


def train(
    recipe: CachedRecipe, latents: LatentCache, objective: Denoising | NextToken,
    pipeline: Pipeline, write: Callable[[Pipeline, Path, HowToSample], None] = save,
    begun: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Train what the pipeline is made of and save it; returns its folder, `run.out/model`.

    Args:
        recipe: What the run is.
        latents: What is trained on.
        objective: What is trained.
        pipeline: Around it.
        write: Saves the pipeline, or what of it was trained.
        begun: Fingerprints of what it begins with.
    """
    division = Division.of(recipe.run, processes().num_processes)
    rows, held_out = latents.split(recipe.held_out)
    found, inputs = _found(objective, latents, len(rows)), partial(_inputs, latents, begun or {})
    with started(recipe.run, recipe, inputs, found) as run:
        prompts = recipe.prompts or latents.captions[:: -(-len(latents) // 16)]
        how = replace(recipe.sampling, precision=run.precision)
        objective.picture = partial(_picture, how, prompts, pipeline, objective)
        objective.captions = prompts if reads_prompts(pipeline) else ()
        if len(held_out):
            objective.evaluation = of_generator(objective, held_out, division.measured)
        loader = Loader(rows, run.batch_size, seed=run.seed, workers=readers(run.workers, rows))
        watcher = Watcher(recipe, found)
        fit([objective], loader, run, watcher)
        with noted(run.trained):
            by_main(lambda: write(pipeline, run.model, recipe.sampling))
        watcher.finish()
        hand_out(run.model)
    return run.model


def _found(objective: Denoising | NextToken, latents: LatentCache, rows: int) -> str:
    shape = "x".join(map(str, latents[0]["packed"].shape))
    if (several := len(latents.grids)) > 1:
        shape = f"{several} shapes, such as {shape}"
    of_codes = latents.index.codes is not None
    what = f"images of {shape} tokens" if of_codes else f"latents, packed as {shape}"
    return f"{type(objective).__name__} of {count(objective)}; {rows} {what}, of {latents.store}"


def _inputs(latents: LatentCache, begun: Mapping[str, str]) -> dict[str, str]:
    """Fingerprints of what a generator is made from."""
    return {**begun, "latents": latents.index.tokenizer, "text": _vocabulary(latents),
            "rows": latents.identity()}  # fmt: skip


def _vocabulary(latents: LatentCache) -> str:
    """Fingerprint of what the prompts' tokens mean, and how many there are."""
    file = latents.text_tokenizer / "tokenizer.json"
    if not file.exists():
        return "none"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return f"{digest}, {latents.index.tokens} tokens"


def _picture(
    how: HowToSample, prompts: Sequence[str], pipeline: Pipeline, objective: Denoising | NextToken
) -> Tensor:  # fmt: skip
    parts = vars(pipeline) if isinstance(pipeline, TokenPipeline) else pipeline.components
    # What is trained is there, and may be held in shares, which are not moved.
    trained = {*objective.modules()}
    for part in parts.values():
        if isinstance(part, nn.Module) and part not in trained:
            part.to(own_device())
    return torch.cat(list(sample(pipeline, prompts, range(len(prompts)), how)))
