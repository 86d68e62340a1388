"""How fast a machine trains: some real steps of a way's networks, taken in a folder of their own
and thrown away. Speed depends on sizes and precision, not on weights or steps.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from calotype.commands.cache_latents import cache
from calotype.commands.cached import open_cache
from calotype.commands.train_generator import assemble_generator
from calotype.commands.train_tokenizer import assemble_tokenizer
from calotype.data import Loader, once
from calotype.pipelines import TokenPipeline, sample
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.training import Batch, Objective, Run, fit
from calotype.training.devices import threads
from calotype.training.division import Division
from calotype.training.images import sent_images
from calotype.training.objective import Batches
from calotype.training.progress import hushed

LEAST = 3
"""Steps that are timed even if they take longer than they should; the first one, which is slower,
does not count."""
ENCODED = 64
"""Images that are encoded to see how long it takes."""
DRAWN = 8
"""Images that are drawn."""


@dataclass(frozen=True)
class Speed:
    """How long a way's parts take, in seconds."""

    tokenizer_step: float
    """An optimiser step of the tokenizer, reading its batch included."""
    encoded: float
    """Reading and encoding an image."""
    generator_step: float
    """An optimiser step of the generator."""
    drawn: float
    """Drawing an image from its prompt."""


def measure(
    tokenizer: TokenizerRecipe, latents: CacheRecipe,
    generator: GeneratorRecipe | TransformerRecipe, seconds: float = 2.0,
    threads_after: int | None = None,
) -> Speed:  # fmt: skip
    """Take about `seconds` of steps of each network, at least three, of the recipes' own sizes and
    precision; what comes after the tokenizer's steps with `threads_after` threads. Nothing of it is
    kept.

    Raises:
        ValueError, FileNotFoundError: something in the recipes cannot be.
    """
    with TemporaryDirectory() as folder, hushed():
        root = Path(folder)
        step, network = _tokenizer(tokenizer, root, seconds)
        with threads(threads_after):
            encoded = _encoding(network, tokenizer)
            network.save(root / "tokenizer")
            kept = replace(latents, tokenizer=str(root / "tokenizer"), out=root / "latents",
                           count=ENCODED)  # fmt: skip
            cache(kept)
            here = replace(generator, tokenizer=kept.tokenizer, cache=kept.out, held_out=0)
            return Speed(step, encoded, *_generator(here, root, seconds))


def _tokenizer(recipe: TokenizerRecipe, root: Path, seconds: float) -> tuple[float, ImageTokenizer]:
    dataset, run = recipe.data.build(), recipe.run
    objective = assemble_tokenizer(recipe, dataset)
    loader = Loader(dataset, run.batch_size, seed=run.seed, transform=recipe.transform,
                    workers=run.workers)  # fmt: skip
    step = _seconds_a_step(objective, loader, replace(run, out=root / "a"), seconds)
    return step, objective.tokenizer.eval()


@torch.no_grad()
def _encoding(network: ImageTokenizer, recipe: TokenizerRecipe) -> float:
    batches = once(recipe.data.build(), ENCODED // 2, recipe.transform)
    began = time.monotonic()
    read = 0
    for batch in islice(batches, 2):
        network.pack(sent_images(batch["image"], network.weight.device)).cpu()  # waits for it
        read += len(batch["image"])
    return (time.monotonic() - began) / read


def _generator(
    recipe: GeneratorRecipe | TransformerRecipe, root: Path, seconds: float
) -> tuple[float, float]:
    """Seconds of a step, and of an image that is drawn."""
    latents, tokenizer = open_cache(recipe)
    objective, pipeline = assemble_generator(recipe, latents, tokenizer)
    rows, _ = latents.split(0)
    loader = Loader(rows, recipe.run.batch_size, seed=recipe.run.seed)
    step = _seconds_a_step(objective, loader, replace(recipe.run, out=root / "b"), seconds)
    network = pipeline.transformer if isinstance(pipeline, TokenPipeline) else pipeline.unet
    pipeline.to(network.device)
    objective.eval()
    prompts = [latents.captions[i % len(latents)] for i in range(DRAWN)]
    began = time.monotonic()
    for _ in sample(pipeline, prompts, range(DRAWN), recipe.sampling):
        pass
    return step, (time.monotonic() - began) / DRAWN


def _seconds_a_step(objective: Objective, loader: Batches, run: Run, seconds: float) -> float:
    """The median, by the training loop itself."""
    clocked = _Clocked(loader, Division.of(run, 1).count, seconds)
    forever = replace(run, steps=10**9, resume=False, best=None, trackers=())
    try:
        fit([objective], clocked, forever)
    except _Enough:
        pass
    return statistics.median(clocked.took[1:])


class _Enough(Exception):  # noqa: N818 (nothing is wrong)
    """Steps have been timed for long enough."""


class _Clocked:
    """Batches that time the steps between them, and end when there are enough."""

    def __init__(self, loader: Batches, count: int, seconds: float) -> None:
        self.loader, self.count, self.seconds = loader, count, seconds
        self.took: list[float] = []

    def batches(
        self, position: int = 0, rank: int = 0, world: int = 1, micro_batch: int | None = None
    ) -> Iterator[Batch]:
        """Those of the loader."""
        last = None
        for number, batch in enumerate(self.loader.batches(position, rank, world, micro_batch)):
            if number % self.count == 0:
                now = time.monotonic()
                self.took += [] if last is None else [now - last]
                last = now
                if len(self.took) > LEAST and sum(self.took[1:]) > self.seconds:
                    raise _Enough
            yield batch
