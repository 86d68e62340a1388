"""Keeps the page of a run while it trains, and not more often than pays."""

import json
import shlex
import time
from dataclasses import replace
from typing import Any

from calotype.commands.command_line import spell
from calotype.pages.run import INDEX, About, Override, RunPage
from calotype.recipes.named import nearest
from calotype.training.agreement import by_main
from calotype.training.description import describe
from calotype.training.portable import public
from calotype.training.progress import say
from calotype.training.run import Run

SHARE = 0.01
"""Of the time that pages may take: after one, as long is waited as it took a hundred times."""


class Watcher:
    """Writes a run's page when it is told that there may be something new: a `Watch` for `fit`.

    Args:
        recipe: The run's.
        found: What is trained, on what, in words.
    """

    def __init__(self, recipe: Any, found: str) -> None:
        self.page = RunPage(recipe.run.out, about(recipe, found))
        self.began, self.due, self.spent = time.monotonic(), 0.0, 0.0
        say(f"shown while it goes on in {recipe.run.out / INDEX}")

    def __call__(self, at_once: bool = False) -> None:
        """Write the page, unless the last one is too new for what it took."""
        if at_once or time.monotonic() >= self.due:
            self.write(False)

    def write(self, finished: bool) -> None:
        """Write the page, and count what it takes."""
        began = time.monotonic()
        gone = began - self.began
        cost = f"This page has taken {self.spent:.2g} s of {gone:.0f} s." if self.spent else ""
        self.page.write(finished, cost)
        now = time.monotonic()
        self.spent += now - began
        self.due = now + (now - began) / SHARE

    def finish(self) -> None:
        """Write it for the last time, when all is saved, as the main process of all; a mishap is
        said and ends nothing.
        """
        by_main(self._finish)

    def _finish(self) -> None:
        try:
            self.write(True)
        except OSError as error:
            say(f"the page of {self.page.out} could not be written: {error}")


def about(recipe: Any, found: str) -> About:
    """Tell a recipe by the named one that it is nearest to; of a type that no named one has
    there is nothing to tell.
    """
    if isinstance(run := getattr(recipe, "run", None), Run):
        # How it was started is none of what it is: whoever types it again deletes nothing.
        recipe = replace(recipe, run=replace(run, resume=False, overwrite=False))
    base = nearest(describe(recipe))
    if base is None:
        return About(_public(found))
    line = spell(base.verb, base.name, base.recipe, recipe)
    command = shlex.join(map(public, shlex.split(line)))
    overrides = [Override(field, *map(_word, pair)) for field, pair in base.differences.items()]
    return About(_public(found), base.name, command, overrides)


def _public(text: str) -> str:
    return " ".join(map(public, text.split(" ")))


def _word(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value)
    return "none" if value is None else str(value)
