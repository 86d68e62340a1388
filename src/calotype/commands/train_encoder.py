"""Training a masked autoencoder: the work."""

import shutil
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import Dataset, IterableDataset

from calotype.commands.quiet import quiet
from calotype.commands.readers import readers
from calotype.commands.watching import Watcher
from calotype.data import Loader, some_of
from calotype.data.identity import drawn
from calotype.mistakes import noted
from calotype.recipes.masked import MaskedRecipe
from calotype.recipes.tokenizer import shapes_of
from calotype.tokenizers.masked import MaskedPatches, save_masked
from calotype.training import fit
from calotype.training.agreement import by_main
from calotype.training.files import publish
from calotype.training.hosts import hand_out
from calotype.training.images import CHANNELS, scaled
from calotype.training.learner import check_compiled
from calotype.training.portable import make_portable
from calotype.training.start import count, started

SHOWN = ("original", "seen", "filled in")


def train_encoder(recipe: MaskedRecipe) -> Path:
    """Train and save; returns the folder, `run.out/model`, of a stock ViTMAEForPreTraining, whose
    encoder transformers' ViTMAEModel and ViTModel load.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    quiet()
    dataset = recipe.data.build()
    torch.manual_seed(recipe.run.seed)
    objective = assemble_masked(recipe, dataset)
    streamed = isinstance(dataset, IterableDataset)
    pictures = "a stream of" if streamed else str(len(dataset))  # type: ignore[arg-type]
    found = (
        f"ViTMAEForPreTraining of {count(objective.network)}; {pictures} pictures, "
        f"{shapes_of(recipe.size, recipe.transform)}"
    )
    with started(recipe.run, recipe, partial(drawn, dataset), found) as run:
        loader = Loader(dataset, run.batch_size, seed=run.seed, transform=recipe.transform,
                        workers=readers(run.workers, dataset))  # fmt: skip
        watcher = Watcher(recipe, found)
        fit([objective], loader, run, watcher)
        with noted(run.trained):
            by_main(lambda: _save(objective, recipe))
        watcher.finish()
        hand_out(run.model)
    return run.model


def assemble_masked(recipe: MaskedRecipe, dataset: Dataset) -> MaskedPatches:
    """What is trained, with fresh weights.

    Raises:
        ValueError: patches do not fill the images, or images are of several shapes.
    """
    shapes = len(recipe.transform.shapes) if recipe.transform else 1
    if shapes > 1:
        raise ValueError("transform.crop has buckets, and a ViT of one size reads squares: crop")
    check_compiled(recipe.run.compile, shapes)
    network = recipe.network.build(recipe.size, CHANNELS[recipe.mode])
    some = some_of(dataset, recipe.examples, recipe.transform)
    examples = [scaled(batch["image"]) for batch in some]
    made = MaskedPatches(network, recipe.policy, recipe.optimizer, examples)
    made.captions = SHOWN * sum(map(len, examples))
    return made


def _save(objective: MaskedPatches, recipe: MaskedRecipe) -> None:
    beside = recipe.run.model.with_name(".model.partial")
    shutil.rmtree(beside, ignore_errors=True)
    save_masked(objective.network, recipe.mode, beside)
    make_portable(beside)
    publish(beside, recipe.run.model)
