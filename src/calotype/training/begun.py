"""The folder that a run fills: begun, taken up, or begun anew."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calotype.training import checkpoint
from calotype.training.description import describe
from calotype.training.differences import compare
from calotype.training.files import write_text
from calotype.training.fitting import FOUND
from calotype.training.former import began
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
        compare(began(file, recipe), settings, run, free)
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
    before = began(file, recipe)
    ended = run.model.exists()
    for name, was, now in _lasting(before["run"], run) if ended else ():
        if was != now:
            raise ValueError(
                f"{name} was {was} in {run.out}, which has ended, and is {now}: set it back, or "
                "choose another folder"
            )
    compare(before, {**describe(recipe), "inputs": before["inputs"]}, run, ())
    return ended


def _lasting(was: Mapping[str, Any], run: Run) -> Iterator[tuple[str, Any, Any]]:
    """What a run that is over was and is asked to be: only what is to come may be cut otherwise."""
    for name in ("steps", "batch_size", "precision"):
        if name != "precision" or run.precision != "auto":
            yield f"run.{name}", was[name], getattr(run, name)


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
    names = ("metrics.jsonl", "history.jsonl", "index.html", "tracker.json", FOUND)
    # Whatever else is in a folder of this name is not tensorboard's: sources of ours, perhaps.
    events = (run.out / "calotype").glob("events.out.tfevents.*")
    for file in [*(run.out / name for name in names), *events]:
        file.unlink(missing_ok=True)
