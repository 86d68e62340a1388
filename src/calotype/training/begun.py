"""The folder that a run fills: begun, taken up, or begun anew."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calotype.training import checkpoint
from calotype.training.description import describe
from calotype.training.differences import compare
from calotype.training.files import write_text
from calotype.training.precision import Name
from calotype.training.run import Run


def begin(
    run: Run, recipe: Any, inputs: Mapping[str, str] | None = None, free: Sequence[str] = ()
) -> None:
    """Open the run's folder and record the recipe; refuse to mix two runs in one folder. A run of
    which no weights have been saved yet has nothing to lose, and gives way to any other.

    Args:
        run: Whose folder it is.
        recipe: The dataclass that describes the run.
        inputs: Fingerprints of what the run is made from, by name.
        free: Fields that may be changed on resume, besides those that always may.

    Raises:
        ValueError: the folder is no run's and not empty, or it holds work already and neither
            `resume` nor `overwrite` is on, or the recipe or the inputs differ from those that
            began.
    """
    file = run.out / "recipe.json"
    settings = {**describe(recipe), "inputs": dict(inputs or {})}
    if not file.exists():
        _check_empty(run.out)
    elif run.overwrite:
        _delete(run)
    elif _holds_work(run):
        compare(_began(file, recipe), settings, run, free)
    run.out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(settings, indent=1) + "\n")


def begun_in(run: Run) -> Name | None:
    """The precision of the run that is to be resumed; None: it is to begin."""
    file = run.out / "recipe.json"
    if not (run.resume and file.exists() and _holds_work(run)):
        return None
    was = json.loads(file.read_text()).get("run", {}).get("precision", "auto")
    return None if was == "auto" else was


def has_ended(run: Run, recipe: Any) -> bool:
    """Whether the recipe has ended in the run's folder.

    Raises:
        ValueError: what has ended or begun there is of another recipe.
    """
    file = run.out / "recipe.json"
    if not (run.model.exists() or (file.exists() and _holds_work(run))):
        return False
    began = _began(file, recipe)
    compare(began, {**describe(recipe), "inputs": began["inputs"]}, run, ())
    if not run.model.exists():
        return False
    # What is still to come may be cut otherwise, but not what is over.
    steps, samples = began["run"]["steps"], _samples(**began["run"])
    for name, was, now in (
        ("run.steps", steps, run.steps),
        ("run.batch_size * run.accumulate", samples, run.batch_size * run.accumulate),
        *_of_precision(began, run),
    ):
        if was != now:
            raise ValueError(
                f"{name} was {was} in {run.out}, which has ended, and is {now}: set it back, or "
                "choose another folder"
            )
    return True


def _of_precision(began: Mapping[str, Any], run: Run) -> list[tuple[str, str, str]]:
    """What it was and is asked to be; nothing where any will do."""
    was = began["run"]["precision"]
    return [] if run.precision == "auto" else [("run.precision", was, run.precision)]


def _samples(batch_size: int, accumulate: int, **rest: Any) -> int:
    return batch_size * accumulate


def _check_empty(folder: Path) -> None:
    # Whatever stands there under a name that a run uses would be replaced. Hidden files are the
    # system's, or of a start that was cut off.
    there = [path.name for path in folder.glob("*") if not path.name.startswith(".")]
    if there:
        raise ValueError(f"{folder} holds {min(there)} and no run: choose a new folder")


def _holds_work(run: Run) -> bool:
    return next(run.out.rglob("*.safetensors"), None) is not None


def _delete(run: Run) -> None:
    """Delete what a run leaves in its folder, and nothing else that may be there.

    Raises:
        ValueError: what is there is something else, such as a cache.
    """
    recipe = json.loads((run.out / "recipe.json").read_text())
    if "run" not in recipe:
        raise ValueError(
            f"{run.out} holds the work of a {recipe['type']} and no run: choose another --run.out"
        )
    checkpoint.sweep(run.out)
    for folder in (run.model, run.checkpoints, run.out / "samples"):
        shutil.rmtree(folder, ignore_errors=True)
    names = ("metrics.jsonl", "history.jsonl", "index.html", "tracker.json")
    # Whatever else is in a folder of this name is not tensorboard's: sources of ours, perhaps.
    events = (run.out / "calotype").glob("events.out.tfevents.*")
    for file in [*(run.out / name for name in names), *events]:
        file.unlink(missing_ok=True)


def _began(file: Path, recipe: Any) -> dict[str, Any]:
    """What a run was begun with; what recipes had no field for then, it had by default."""
    return _completed(json.loads(file.read_text()), recipe)


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
