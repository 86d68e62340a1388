"""Keeps the page of a run while it trains, and not more often than pays."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from calotype.commands.command_line import spell
from calotype.pages.run import INDEX, About, Override, RunPage
from calotype.recipes.distil import DISTILLED
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.training.distributed import processes
from calotype.training.portable import public
from calotype.training.progress import say
from calotype.training.run import Run, describe
from calotype.training.trackers import flat

SHARE = 0.01
"""Of the time that pages may take: after one, as long is waited as it took a hundred times."""
VERBS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "train-tokenizer": TOKENIZERS,
    "train-generator": GENERATORS,
    "distil-decoder": DISTILLED,
}


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
        """Write it for the last time, when all is saved; a mishap is said and ends nothing."""
        if not processes().is_main_process:
            return
        try:
            self.write(True)
        except OSError as error:
            say(f"the page of {self.page.out} could not be written: {error}")


def about(recipe: Any, found: str) -> About:
    """Tell a recipe by the named one that it differs least from; of a type that no named one has
    there is nothing to tell.
    """
    if isinstance(run := getattr(recipe, "run", None), Run):
        # How it was started is none of what it is: whoever types it again deletes nothing.
        recipe = replace(recipe, run=replace(run, resume=False, overwrite=False))
    nearest = min(_alike(recipe), key=lambda each: len(each[-1]), default=None)
    if nearest is None:
        return About(_public(found))
    verb, name, named, overrides = nearest
    command = shlex.join(map(public, shlex.split(spell(verb, name, named, recipe))))
    return About(_public(found), name, command, overrides)


def _alike(recipe: Any) -> Iterator[tuple[str, str, Any, list[Override]]]:
    """The named recipes of its type, and in what it differs from each."""
    for verb, recipes in VERBS.items():
        for name, build in recipes.items():
            if type(named := build()) is type(recipe):
                yield verb, name, named, _overrides(named, recipe)


def _overrides(named: Any, recipe: Any) -> list[Override]:
    was, now = (dict(flat(public(describe(each)))) for each in (named, recipe))
    return [Override(field, _word(was, field), _word(now, field))
            for field in {**was, **now} if _word(was, field) != _word(now, field)]  # fmt: skip


def _public(text: str) -> str:
    return " ".join(map(public, text.split(" ")))


def _word(fields: Mapping[str, Any], name: str) -> str:
    return "none" if (value := fields.get(name)) is None else str(value)
