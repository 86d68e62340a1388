"""Trackers are told the recipe, figures and pictures, and know a resumed run again."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
)

import tiny
from calotype.training import AdamW, Batch, Losses, Objective, Run, begin, fit
from calotype.training.trackers import _recipe


class Shown(Objective):
    """Minimise w; has a picture."""

    def __init__(self) -> None:
        super().__init__(AdamW(0.1))
        self.w = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch, step: int) -> Losses:
        return {"height": self.w.sum()}

    def preview(self) -> torch.Tensor:
        return torch.linspace(-1, 1, 2 * 3 * 128 * 128).reshape(2, 3, 128, 128)


def train(run: Run) -> None:
    begin(run, tiny.tokenizer_recipe(run.out, run=run), {"data": "12 pictures"})
    fit([Shown()], tiny.Repeating({"x": torch.zeros(2, 1)}, run.batch_size), run)


def test_a_recipe_is_told_field_by_field(tmp_path):
    told = {"a": {"type": "B", "c": [1, 2], "d": None}, "e": 0.5}
    (tmp_path / "recipe.json").write_text(json.dumps(told))
    found = _recipe(Run(tmp_path))
    assert found == {"a.type": "B", "a.c": "[1, 2]", "a.d": None, "e": 0.5}


def test_tensorboard_has_recipe_figures_and_pictures_of_one_run(tmp_path):
    """Read back from its event files, over a resume."""
    run = tiny.run(tmp_path, steps=2, sample_every=2, trackers=("tensorboard",))
    train(run)
    train(tiny.run(tmp_path, steps=4, sample_every=2, trackers=("tensorboard",), resume=True))
    folder = tmp_path / "calotype"
    assert all(path.is_file() for path in folder.iterdir()), "one run, not one for each start"
    board = EventAccumulator(str(folder))
    board.Reload()
    assert [event.step for event in board.Scalars("height")] == [2, 4]
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event.value for event in board.Scalars("height")] == pytest.approx(
        [line["height"] for line in logged]
    )
    second = board.Images("samples")[1]
    (tmp_path / "second.png").write_bytes(second.encoded_image_string)
    with Image.open(tmp_path / "second.png") as ours, Image.open(
        tmp_path / "samples/0000004.png"
    ) as theirs:  # fmt: skip
        assert second.step == 4 and (np.asarray(ours) == np.asarray(theirs)).all()
    told = board.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    recipe = HParamsPluginData.FromString(told).session_start_info.hparams
    assert recipe["model.bottleneck.kl_weight"].number_value == tiny.BOTTLENECK.kl_weight
    assert recipe["inputs.data"].string_value == "12 pictures"


class Board:
    """Stands in for wandb or trackio: remembers what it is told."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.recipes: list[dict[str, Any]] = []
        self.ended = 0
        self.config = SimpleNamespace(update=lambda values, **how: self.recipes.append(values))

    def init(self, **how: Any) -> "Board":
        self.begun.append(how)
        return self

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.told.append({"step": step, **values})

    def Image(self, image: Image.Image) -> tuple[int, int]:  # noqa: N802 (theirs)
        return image.size

    def finish(self) -> None:
        self.ended += 1


@pytest.fixture(params=["wandb", "trackio"])
def board(request, monkeypatch) -> tuple[str, Board]:
    made = Board()
    monkeypatch.setitem(sys.modules, request.param, made)
    monkeypatch.setattr(
        tracking, "_available_trackers", [*tracking._available_trackers, LoggerType(request.param)]
    )
    return request.param, made


def test_wandb_and_trackio_know_a_resumed_run_again(board, tmp_path):
    """Each by what it calls that."""
    name, made = board
    for steps in (2, 4):
        train(tiny.run(tmp_path / "mine", steps=steps, sample_every=2, trackers=(name,),
                       resume=steps > 2))  # fmt: skip
    first, second = made.begun
    key = {"wandb": "id", "trackio": "name"}[name]
    assert first["project"] == "calotype" and first["resume"] == "allow"
    assert first[key].startswith("mine-") and first[key] == second[key]
    recipes = made.recipes if name == "wandb" else [how["config"] for how in made.begun]
    assert [recipe["run.steps"] for recipe in recipes] == [2, 4]
    assert recipes[0]["model.bottleneck.type"] == "Gaussian"
    figures = [told["step"] for told in made.told if "height" in told]
    pictures = {told["step"]: told["samples"] for told in made.told if "samples" in told}
    assert figures == [2, 4] and made.ended == 2
    shown = 2 * 128 + 3 * 2, 128 + 2 * 2
    assert pictures == {step: [shown] if name == "wandb" else shown for step in (2, 4)}


def test_another_run_is_another_to_them(board, tmp_path):
    name, made = board
    for folder in ("a/run", "b/run"):
        train(tiny.run(tmp_path / folder, steps=1, trackers=(name,)))
    one, other = (how["id" if name == "wandb" else "name"] for how in made.begun)
    assert one != other


def test_a_run_that_is_overwritten_is_another_to_them(board, tmp_path):
    name, made = board
    train(tiny.run(tmp_path, steps=2, trackers=(name,)))
    train(tiny.run(tmp_path, steps=2, trackers=(name,), overwrite=True))
    one, other = (how["id" if name == "wandb" else "name"] for how in made.begun)
    assert one != other
