"""A run's folder: recorded, never mixed with another run."""

import json
from dataclasses import dataclass, field, replace

import pytest

from calotype.training import AdamW, Run, begin


@dataclass(frozen=True)
class Recipe:
    optimizer: AdamW = field(default_factory=AdamW)
    run: Run = field(default_factory=Run)


def test_the_recipe_is_recorded(tmp_path):
    begin(Run(tmp_path / "r"), Recipe(run=Run(tmp_path / "r")))
    recorded = json.loads((tmp_path / "r/recipe.json").read_text())
    assert recorded["type"] == "Recipe"
    assert recorded["optimizer"]["lr"] == 1e-4 and recorded["run"]["type"] == "Run"


def saved(run: Run) -> None:
    """Leave a checkpoint's file: work that would be lost."""
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "model.safetensors").touch()


def test_a_folder_holds_one_run(tmp_path):
    run = Run(tmp_path)
    begin(run, Recipe(run=run))
    begin(run, Recipe(AdamW(0.1), run))  # nothing has been saved that a new beginning could spoil
    saved(run)
    with pytest.raises(ValueError, match=r"already holds a run: pass --run\.resume"):
        begin(run, Recipe(run=run))


def test_resuming_another_recipe_is_refused_by_field(tmp_path):
    run = Run(tmp_path, resume=True)
    begin(run, Recipe(run=run), {"latents": "beef"})
    saved(run)
    begin(replace(run, workers=3), Recipe(run=replace(run, workers=3)), {"latents": "beef"})
    with pytest.raises(ValueError, match=r"inputs\.latents was beef .* is f00d"):
        begin(run, Recipe(run=run), {"latents": "f00d"})
    with pytest.raises(ValueError, match=r"optimizer\.lr was 0\.0001 .* is 0\.1"):
        begin(run, Recipe(AdamW(0.1), run))


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("ema", 1.0), ("clip", 0.0), ("batch_size", -1)]
)
def test_impossible_fields_are_named(field, value):
    with pytest.raises(ValueError, match=rf"run\.{field} is {value}"):
        Run(**{field: value})
