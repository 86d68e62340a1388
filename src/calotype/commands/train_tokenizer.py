"""Training a tokenizer: the work."""

import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import Dataset, IterableDataset

from calotype.commands.export import Export, finish
from calotype.commands.quiet import quiet
from calotype.commands.readers import readers
from calotype.commands.validation import of_tokenizer
from calotype.commands.watching import Watcher
from calotype.data import Loader, once, some_of
from calotype.data.identity import drawn, identified
from calotype.mistakes import noted
from calotype.pages.gallery import PAIR, TRIPLE
from calotype.recipes.latent_terms import check_latent_terms
from calotype.recipes.tokenizer import (
    Continued,
    TokenizerRecipe,
    check_sides,
    image_size,
    shapes_of,
)
from calotype.tokenizers import (
    Critic,
    ImageTokenizer,
    Reconstruction,
    take_up,
)
from calotype.tokenizers.bottlenecks import (
    Annealed,
    Bottleneck,
    GumbelBottleneck,
)
from calotype.tokenizers.corruptions.base import Images
from calotype.tokenizers.likelihood import likelihood_of
from calotype.tokenizers.terms import Adversary, BinaryLikelihood, Term
from calotype.training import Objective, Run, fit
from calotype.training.distributed import processes
from calotype.training.division import Division
from calotype.training.images import scaled
from calotype.training.learner import check_compiled
from calotype.training.noise import generators
from calotype.training.progress import say
from calotype.training.start import count, started
from calotype.training.weights import weights_of


def train_tokenizer(recipe: TokenizerRecipe) -> Path:
    """Train, normalise and save; returns the folder, `run.out/model`, of a stock AutoencoderKL or
    VQModel, or of what `ImageTokenizer.load` reads where there is no stock class.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    quiet()
    size, division = recipe.size, Division.of(recipe.run, processes().num_processes)
    dataset = recipe.data.build()
    validation = _validation(recipe)
    torch.manual_seed(recipe.run.seed)
    if recipe.adversary:
        recipe.adversary.check(recipe.shortest)
        _warn_of_idle(recipe.adversary, recipe.run)
    reconstruction = assemble_tokenizer(recipe, dataset)
    _check_codes(recipe, reconstruction.tokenizer)
    _warn_of_warmth(reconstruction.tokenizer.bottleneck, recipe.run)
    if validation is not None:
        spec, terms = recipe.perceptual, reconstruction.terms
        lpips = {spec.net: cast(Term, terms["lpips"])} if spec else {}
        reconstruction.evaluation = of_tokenizer(
            reconstruction,
            validation,
            recipe.transform,
            recipe.validate,
            lpips,
            division.measured,
        )
    critic = _critic(recipe, reconstruction)
    objectives: list[Objective] = [reconstruction, *([critic] if critic else [])]
    total = None if isinstance(dataset, IterableDataset) else len(dataset)  # type: ignore[arg-type]
    inputs = partial(_inputs, recipe, reconstruction.tokenizer, dataset, validation)
    found = _found(reconstruction.tokenizer, total, shapes_of(size, recipe.transform))
    with started(recipe.run, recipe, inputs, found) as run:
        loader = Loader(dataset, run.batch_size, seed=run.seed, transform=recipe.transform,
                        workers=readers(run.workers, dataset))  # fmt: skip
        watcher = Watcher(recipe, found)
        fit(objectives, loader, run, watcher)
        if loader.skipped:
            warnings.warn(f"broken pictures skipped: {loader.skipped}", stacklevel=2)
        pixel = cast(Term, reconstruction.terms["pixel"])
        export = Export(run, loader, total, recipe.measure, recipe.model.latents_may_move,
                        validation, recipe.transform, critic,
                        likelihood_of(reconstruction.tokenizer, recipe.pixel, pixel))  # fmt: skip
        with noted(run.trained):
            finish(reconstruction.tokenizer, export)
        watcher.finish()
    return run.model


def _critic(recipe: TokenizerRecipe, opponent: Reconstruction) -> Critic | None:
    """The adversary, where the recipe has one; with a discriminator that was kept, where that is
    asked for.
    """
    if not recipe.adversary:
        return None
    settings = replace(recipe.optimizer, lr=recipe.adversary.lr, warmup=0)
    critic, model = Critic(recipe.adversary, opponent, settings), recipe.model
    if isinstance(model, Continued) and model.discriminator and not take_up(critic, model.path):
        say(f"{model.path} keeps no discriminator: a fresh one begins")
    return critic


def _inputs(
    recipe: TokenizerRecipe, tokenizer: ImageTokenizer, dataset: Dataset, validation: Dataset | None
) -> dict[str, str]:
    """Fingerprints of what a tokenizer is made from."""
    held = {}
    if recipe.rebuildable:
        held["rebuildable"] = weights_of(ImageTokenizer.load(recipe.rebuildable.path))
    # What was best on other pictures says nothing of these.
    told = {"validation": validation} if recipe.run.best else {}
    return {**recipe.model.inputs(tokenizer), **held, **drawn(dataset), **identified(**told)}


def _found(tokenizer: ImageTokenizer, total: int | None, shapes: str) -> str:
    pictures = "a stream of pictures" if total is None else f"{total} pictures"
    kind = type(tokenizer.autoencoder).__name__
    return f"{kind} of {count(tokenizer)}; {pictures}, {shapes}"


def _validation(recipe: TokenizerRecipe) -> Dataset | None:
    """Open the pictures; that they can be read is known before the work."""
    if recipe.validation is None:
        return None
    try:
        size = image_size(recipe.validation, recipe.transform)
    except ValueError as error:
        raise ValueError(f"validation: {error}") from error
    if size != recipe.size:
        raise ValueError(
            f"validation makes images of {size} pixels, and data of {recipe.size}: choose one size"
        )
    dataset = recipe.validation.build()
    next(once(dataset, 1, recipe.transform))
    return dataset


def _check_codes(recipe: TokenizerRecipe, tokenizer: ImageTokenizer) -> None:
    bottleneck = tokenizer.bottleneck
    if not tokenizer.is_stock and processes().is_main_process:
        what = type(bottleneck if not bottleneck.exported else tokenizer.autoencoder).__name__
        warnings.warn(
            f"no stock class holds what {what} does: {recipe.run.model} will "
            "load by calotype.tokenizers.ImageTokenizer, and in no stock pipeline",
            stacklevel=3,
        )


def _warn_of_warmth(bottleneck: Bottleneck, run: Run) -> None:
    if isinstance(bottleneck, GumbelBottleneck | Annealed):
        last = bottleneck.spec.temperature
        if (reached := last.at(run.steps)) > 1.01 * last.at(sys.maxsize):
            warnings.warn(
                f"temperature: at step {run.steps}, the run's last, it is still {reached:.2g}, and "
                "what is hard will decode worse than what was relaxed: choose as few "
                "temperature.steps",
                stacklevel=3,
            )


def _warn_of_idle(adversary: Adversary, run: Run) -> None:
    if adversary.effect_start >= run.steps:
        warnings.warn(
            f"adversary.effect_start is {adversary.effect_start} and run.steps {run.steps}: it "
            "will never be felt, unless --adversary.start and --adversary.effect-start are earlier",
            stacklevel=3,
        )


def _check_pictures(recipe: TokenizerRecipe, images: Images) -> None:
    """Refuse a corruption or a likelihood that goes with no such pictures.

    Raises:
        ValueError: one does not.
    """
    if recipe.corruption:
        recipe.corruption(images, generators(range(len(images))))
    if isinstance(recipe.pixel, BinaryLikelihood):
        recipe.pixel.check(images)


def assemble_tokenizer(recipe: TokenizerRecipe, dataset: Dataset) -> Reconstruction:
    """What is trained, with the weights that it begins with.

    Raises:
        ValueError: the tokenizer cannot be, or not for images of this size.
    """
    size = recipe.size
    terms = {"pixel": (recipe.pixel.weight, recipe.pixel.build())}
    if recipe.perceptual:
        recipe.perceptual.check(recipe.shortest)
        terms["lpips"] = (recipe.perceptual.weight, recipe.perceptual.build())
    if recipe.rebuildable:
        terms["rebuildable"] = (recipe.rebuildable.weight,
                                recipe.rebuildable.build(size, recipe.mode))  # fmt: skip
    tokenizer = recipe.model.build(size, recipe.mode, recipe.pixel.maps)
    check_compiled(recipe.run.compile, len(recipe.transform.shapes) if recipe.transform else 1)
    check_sides(tokenizer, size, recipe.transform)
    total = None if isinstance(dataset, IterableDataset) else len(dataset)  # type: ignore[arg-type]
    check_latent_terms(tokenizer, recipe.encoder_terms, recipe.run, total)
    if recipe.gradient_checkpointing:
        tokenizer.enable_gradient_checkpointing()
    some = list(some_of(dataset, recipe.examples, recipe.transform))
    for batch in some:
        tokenizer.bottleneck.told(batch)  # what it is not told ends the run before it begins
    examples = [scaled(batch["image"]) for batch in some]
    for images in examples:
        _check_pictures(recipe, images)
    made = Reconstruction(tokenizer, terms, recipe.optimizer, examples, recipe.corruption,
                          recipe.encoder_terms)  # fmt: skip
    made.captions = (TRIPLE if recipe.corruption else PAIR) * sum(map(len, examples))
    return made
