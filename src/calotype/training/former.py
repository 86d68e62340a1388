"""What versions before wrote into the folder of a run, as it is written now."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calotype.training import history
from calotype.training.checkpoint import complete
from calotype.training.description import describe


def began(file: Path, recipe: Any) -> dict[str, Any]:
    """What a run was begun with; what recipes had no field for then, it had by default."""
    known = json.loads(file.read_text())
    if "run" in known:
        known["run"] = of_all_processes(known["run"], file.parent)
    return _completed(known, recipe)


def of_all_processes(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run as it is now, of one that may have been begun when `batch_size` was of one process and
    one micro-batch, of which there were `accumulate`: the steps have the same samples.
    """
    found = dict(run)
    if "micro_batch" in found or "batch_size" not in found:
        return found
    each = found["batch_size"]
    own = each * found.pop("accumulate", 1)
    return {**found, "batch_size": _taken(folder) or own * _processes(folder), "micro_batch": each}


def _taken(folder: Path) -> int | None:
    """Samples of a step, as a run's newest checkpoint counts them; None: there is none."""
    for step in reversed(complete(folder / "checkpoints")):
        counts = json.loads((step / "state.json").read_text())
        return counts["samples"] // counts["step"]
    return None


def _processes(folder: Path) -> int:
    return max((each["processes"] for each in history.read(folder)), default=1)


ONCE = {
    ("CacheRecipe", "precision"): "fp32",
    ("Transform", "colour"): {"type": "AsStored"},
}
"""What versions did that had no field for it, where that is not what it is by default now."""
CALLED_BEFORE = {"cache": "latents"}
"""Fields of recipes, and what they were called when some runs began."""


def _completed(began: dict[str, Any], value: Any) -> dict[str, Any]:
    for field in dataclasses.fields(value):
        now, before = getattr(value, field.name), CALLED_BEFORE.get(field.name)
        if before in began and field.name not in began:
            began[field.name] = began.pop(before)
        if (once := ONCE.get((type(value).__name__, field.name))) and field.name not in began:
            began[field.name] = once
        elif field.name not in began:
            if field.default is not dataclasses.MISSING:
                began[field.name] = describe(field.default)
            elif field.default_factory is not dataclasses.MISSING:
                began[field.name] = describe(field.default_factory())
        elif dataclasses.is_dataclass(now) and isinstance(began[field.name], dict):
            began[field.name] = _completed(began[field.name], now)
    return began
