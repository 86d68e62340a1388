"""Training for as long as there is time, in legs: how fast a machine trains shows while it does."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from calotype.commands.journey import Journey, Part
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.training import Run, checkpoint

LEGS = (0.25, 0.6, 1.0)
"""Parts of a network's time after which it is seen how fast it really trains: other programs may
have begun since it was measured. The first leg may take four times as long as it should."""

R = TypeVar("R", TokenizerRecipe, GeneratorRecipe)


def train_until(
    journey: Journey, part: Part, recipe: R, train: Callable[[R], Path], until: float, step: float
) -> R:
    """Train until the journey has taken so many seconds, in legs of which each is as long as the
    speed of the one before allows; what is exported after each can be looked at. Returns the recipe
    of the last one. A network that has no weights yet is trained for a step at least.
    """
    done = part.first = _step(recipe.run)
    for share in LEGS:
        seconds = max(0.0, share * (until - journey.gone))
        steps = max(done + int(seconds / step), 1)
        leg = replace(recipe, run=replace(recipe.run, steps=steps))
        if steps <= done and recipe.run.model.exists():
            return replace(leg, run=replace(leg.run, steps=done))
        part.undecided = share < 1
        if part.undecided:
            journey.say(f"up to step {steps} first: by then it shows how many there is time for")
        else:
            part.run = leg.run
            journey.say(f"there is time up to step {steps}")
        began = time.monotonic()
        train(leg)
        step = (time.monotonic() - began) / max(1, steps - done)
        recipe, done = leg, steps
    return recipe


def _step(run: Run) -> int:
    """The step of the newest checkpoint; 0: there is none."""
    found = checkpoint.complete(run.checkpoints)
    return int(found[-1].name.removeprefix("step-")) if found else 0
