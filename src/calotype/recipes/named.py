"""Which of the named recipes one resembles."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.recipes.distil import DISTILLED
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.training.description import describe
from calotype.training.portable import flat, public

VERBS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "train-tokenizer": TOKENIZERS,
    "train-generator": GENERATORS,
    "distil-decoder": DISTILLED,
}
"""The named recipes of runs, by the verb that takes them."""


@dataclass(frozen=True)
class Named:
    """A named recipe, and in what another one of its type differs from it."""

    verb: str
    name: str
    recipe: Any
    differences: dict[str, tuple[Any, Any]]
    """By field, one inside another behind a dot: its own value, and the other one's; None where one
    of them has no such field. Paths of the machine are their last names."""


def alike(said: Mapping[str, Any]) -> Iterator[Named]:
    """All named recipes of the type of one that is described as in `recipe.json`."""
    others = fields(said)
    for verb, recipes in VERBS.items():
        for name, build in recipes.items():
            recipe = build()
            if type(recipe).__name__ != said.get("type"):
                continue
            own = fields(describe(recipe))
            pairs = {field: (own.get(field), others.get(field)) for field in {**own, **others}}
            differences = {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}
            yield Named(verb, name, recipe, differences)


def nearest(said: Mapping[str, Any]) -> Named | None:
    """The named recipe that one is: the one whose folder it has, else the one that it differs least
    from; None: there is none of its type.
    """
    others = list(alike(said))
    own = next((each for each in others if each.name == folder(said)), None)
    return own or min(others, key=lambda each: len(each.differences), default=None)


def folder(said: Mapping[str, Any]) -> str:
    """What the folder of a described run is called."""
    return Path(said.get("run", {}).get("out", "")).name


def fields(said: Mapping[str, Any]) -> dict[str, Any]:
    """A description's values by their field, without what is of the machine
    alone.
    """
    return dict(flat(public(dict(said))))
