"""The command that a recipe is: a named recipe, and a flag for each field that differs from it."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any


def spell(verb: str, name: str, named: Any, recipe: Any) -> str:
    """The command line of which `recipe` is parsed.

    Args:
        verb: Of `calotype`.
        name: Of the recipe that it begins from.
        named: That recipe.
        recipe: Another of its type.
    """
    flags = list(_flags(named, recipe, ""))
    # A choice between types stands before the flags of what is chosen.
    flags.sort(key=lambda words: words[0].startswith("--"))
    return shlex.join(["calotype", verb, name, *(each for words in flags for each in words)])


def _flags(named: Any, recipe: Any, prefix: str) -> Iterator[list[str]]:
    """Words for each field that differs; `named` None: from the type's own defaults."""
    for field in fields(recipe):
        was = _default(field) if named is None else getattr(named, field.name)
        now = getattr(recipe, field.name)
        flag = prefix + field.name.replace("_", "-")
        if was == now:
            continue
        if is_dataclass(now):
            chosen = type(was) is not type(now)
            if chosen:
                yield [f"{flag}:{word(type(now).__name__)}"]
            yield from _flags(None if chosen else was, now, f"{flag}.")
        else:
            yield _words(field.name, prefix, was, now)


def _words(name: str, prefix: str, was: Any, now: Any) -> list[str]:
    flag = name.replace("_", "-")
    if now is None and is_dataclass(was):
        return [f"{prefix}{flag}:none"]
    if isinstance(now, bool):
        return [f"--{prefix}{flag}" if now else f"--{prefix}no-{flag}"]
    return [f"--{prefix}{flag}", *map(str, now if isinstance(now, tuple) else (now,))]


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def word(name: str) -> str:
    """A type as the command line calls it: KMeans is k-means."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
