"""Speed is measured by the recipes' own steps, and nothing of it is kept."""

import os
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

import tiny
from calotype.commands import timing
from calotype.training import AdamW
from calotype.training.devices import threads


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.filterwarnings("ignore:.* codes are in use")
def test_every_part_is_timed_and_nothing_is_left(discrete, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    if discrete:
        recipes = tiny.token_recipes(tmp_path)
    else:
        recipes = (tiny.tokenizer_recipe(tmp_path), tiny.cache_recipe(tmp_path),
                   tiny.generator_recipe(tmp_path))  # fmt: skip
    speed = timing.measure(*recipes, seconds=0.0)
    assert all(value > 0 for value in vars(speed).values())
    assert os.listdir(tmp_path) == ["temporary"] and not os.listdir(tmp_path / "temporary")
    assert capfd.readouterr().out == ""


def test_the_steps_that_are_timed_are_those_of_the_recipe(tmp_path):
    """Its batch, its accumulation, its precision: and no more than are needed."""
    recipe = tiny.tokenizer_recipe(tmp_path)
    run = replace(recipe.run, batch_size=6, micro_batch=2)
    steps = []

    def rate(self, step, steps_of_all):
        steps.append(step)
        return 1e-4

    with patch.object(AdamW, "rate", rate):
        timing._tokenizer(replace(recipe, run=run), tmp_path, 0.0)
    assert steps == list(range(timing.LEAST + 1))


def test_what_comes_after_the_tokenizer_may_have_fewer_threads(tmp_path, monkeypatch):
    counts = {}

    def watched(name):
        work = getattr(timing, name)
        monkeypatch.setattr(
            timing, name,
            lambda *args: counts.update({name: torch.get_num_threads()}) or work(*args),
        )  # fmt: skip

    for name in ("_tokenizer", "_encoding", "_generator"):
        watched(name)
    recipes = (tiny.tokenizer_recipe(tmp_path), tiny.cache_recipe(tmp_path),
               tiny.generator_recipe(tmp_path))  # fmt: skip
    with threads(2):
        timing.measure(*recipes, seconds=0.0, threads_after=1)
        assert torch.get_num_threads() == 2
    assert counts == {"_tokenizer": 2, "_encoding": 1, "_generator": 1}
