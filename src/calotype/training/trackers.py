"""Other people's boards of runs, Accelerate's trackers: each is told the recipe, and a run that is
resumed is the one that it was.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from calotype.lazy import accelerate
from calotype.training.description import describe
from calotype.training.files import write_text
from calotype.training.portable import flat, public
from calotype.training.run import Run

PROJECT = "calotype"
"""What trackers call all runs together; tensorboard's folder in that of the run."""
IDENTITY = "tracker.json"
"""In a run's folder: what trackers call the run, however often it is resumed."""
PICTURES = "samples"


class Trackers:
    """Those of a run; the main process speaks to them. Of a run without any nothing is done."""

    def __init__(self, run: Run, accelerator: "accelerate.Accelerator") -> None:
        self.accelerator = accelerator
        if not (run.trackers and accelerator.is_main_process):
            return
        recipe, name = _recipe(run), _name(run.out)
        accelerator.init_trackers(PROJECT, init_kwargs={
            "wandb": {"id": name, "name": run.out.name, "resume": "allow"},
            "trackio": {"name": name, "resume": "allow", "config": recipe},
        })  # fmt: skip
        for tracker in accelerator.trackers:
            _tell(tracker, recipe)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Pass figures on."""
        self.accelerator.log(dict(values), step)

    def picture(self, step: int, file: Path) -> None:
        """Pass a picture on to those of tensorboard, wandb and trackio that there are."""
        if not self.accelerator.trackers:
            return
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        for tracker in self.accelerator.trackers:
            match tracker.name:
                case "tensorboard":
                    batch = np.asarray(image)[None]
                    tracker.log_images({PICTURES: batch}, step, dataformats="NHWC")
                case "wandb":
                    tracker.log_images({PICTURES: [image]}, step)
                case "trackio":  # Accelerate's has no way for pictures
                    tracker.log({PICTURES: import_module("trackio").Image(image)}, step)

    def finish(self) -> None:
        """Let them go. Not `end_training`: it parts the ranks too, who have yet to export."""
        for tracker in self.accelerator.trackers:
            tracker.finish()


def _tell(tracker: Any, recipe: dict[str, Any]) -> None:
    match tracker.name:
        case "tensorboard":  # in the run's own folder: Accelerate's would be another run each time
            tracker.tracker.add_hparams(recipe, {}, run_name=".")
        case "trackio":  # it was told when it began
            pass
        case _:
            tracker.store_init_configuration(recipe)


def _recipe(run: Run) -> dict[str, Any]:
    """What the run was begun by, as trackers take it, `model.bottleneck.channels: 4`; lists are
    JSON. Of one that was not begun by a recipe, the run alone.
    """
    file = run.out / "recipe.json"
    said = public(json.loads(file.read_text()) if file.exists() else {"run": describe(run)})
    return {name: json.dumps(value) if isinstance(value, list) else value
            for name, value in flat(said)}  # fmt: skip


def _name(folder: Path) -> str:
    file = folder / IDENTITY
    if not file.exists():
        name = f"{folder.resolve().name}-{uuid4().hex[:8]}"
        write_text(file, json.dumps({"run": name}) + "\n")
    return json.loads(file.read_text())["run"]
