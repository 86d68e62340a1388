"""Recipes as JSON, and back."""

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

PLACES = {
    "run.out", "out", "data.path", "validation.path", "tokenizer", "cache", "model.start",
    "model.path", "transformer.path", "text.path", "pipeline", "teacher", "student.path",
    "perceptual.backbone_weights", "rebuildable.path",
}  # fmt: skip
"""Fields of recipes that say where something lies."""


def describe(value: Any) -> Any:
    """A recipe as JSON; each dataclass says its name under "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def restore(kinds: Any, value: Any) -> Any:
    """What `describe` described: a dataclass among `kinds`, a type or a union of some.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(value, dict):
        found = [kind for kind in (get_args(kinds) or (kinds,))
                 if getattr(kind, "__name__", None) == value.get("type")]  # fmt: skip
        if not found:
            raise ValueError(f"no type {value.get('type')!r} here: another version may know it")
        hints = get_type_hints(found[0])
        fields = {name: restore(hints[name], v) for name, v in value.items() if name != "type"}
        return found[0](**fields)
    return tuple(value) if isinstance(value, list) else value


def is_place(name: str) -> bool:
    """Whether a field of recipes says where something lies; of sources within a source too."""
    first, *inside = name.split(".")
    return name in PLACES or (first in ("data", "validation") and inside[-1:] == ["path"])
