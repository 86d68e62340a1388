"""What the doctor looks at where all that calotype stands on is installed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from calotype.commands.rehearsal import Recipe as AnyRecipe
from calotype.commands.rehearsal import needs
from calotype.evaluation.hub import Asking, weights
from calotype.evaluation.machine import disk, machine
from calotype.evaluation.throughput import throughput
from calotype.lazy import huggingface_hub
from calotype.pages.checkup import Section, show, show_line, show_title
from calotype.pages.examination import (
    HOW_TO_READ,
    RECIPES,
    Examination,
    Recipe,
    of_recipe,
    sections,
)
from calotype.recipes.distil import DISTILLED
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.training.distributed import on_cpu
from calotype.training.division import Division
from calotype.training.precision import DTYPES, suits

WIDTH = max(map(len, (*TOKENIZERS, *GENERATORS, *DISTILLED)))
"""Of recipes' names."""


def examine(
    runs: Path, backbones: Path | None, console: Console
) -> tuple[list[Section], dict[str, Any]]:
    """Look, measure, rehearse and print; returns what was printed, and what was found as JSON."""
    asking = Asking()
    with console.status("measuring this machine"):
        device = _device()
        found = Examination(
            machine(), throughput(device), suits(device).name,
            (disk(runs), disk(Path(huggingface_hub.constants.HF_HOME))),
            asking.answer(), Path(torch.hub.get_dir()) / "checkpoints", tuple(weights(backbones)),
        )  # fmt: skip
    said = sections(found)
    show(said, console)
    lines, recipes = [], []
    show_title(RECIPES, HOW_TO_READ, console)
    for recipe in _recipes(found.precision):  # some seconds each
        recipes.append(recipe)
        lines.append(of_recipe(found, recipe))
        show_line(lines[-1], WIDTH, console)
    said.append(Section(RECIPES, tuple(lines), HOW_TO_READ))
    return said, {**asdict(found), "recipes": [asdict(recipe) for recipe in recipes]}


def _device() -> torch.device:
    found = None if on_cpu() else torch.accelerator.current_accelerator()
    return found or torch.device("cpu")


def _recipes(precision: str) -> Iterator[Recipe]:
    commands: dict[str, Mapping[str, Callable[[], AnyRecipe]]] = {
        "train-tokenizer": TOKENIZERS, "train-generator": GENERATORS, "distil-decoder": DISTILLED,
    }  # fmt: skip
    for command, named in commands.items():
        # A recipe's other names are not rehearsed again.
        first = {build: name for name, build in reversed(list(named.items()))}
        for name, build in named.items():
            if first[build] == name:
                yield _rehearsed(name, build, command, precision)


def _rehearsed(name: str, build: Callable[[], AnyRecipe], command: str, precision: str) -> Recipe:
    recipe = build()
    chosen = recipe.run.precision
    chosen = precision if chosen == "auto" else chosen
    return Recipe(name, command, chosen, needs(recipe, DTYPES[chosen]), recipe.run.steps,
                  Division.of(recipe.run, 1).count)  # fmt: skip
