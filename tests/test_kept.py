"""Runs, caches and pipelines of earlier versions load and resume."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import LatentCache
from calotype.pipelines import load, recommended, sample
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.training import Run, has_ended

KEPT = Path(__file__).parent / "kept"
VERSIONS = sorted(path.name for path in KEPT.iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS)
def kept(request, tmp_path, monkeypatch) -> Path:
    """A copy of what a version wrote, at the relative path under which it was written."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(KEPT / request.param, request.param)
    return Path(request.param)


def resumed(run: Run) -> Run:
    return replace(run, resume=True)


def recipe(root: Path, name: str):
    """The recipe that a run was begun with."""
    if name == "tokenizer":
        return tiny.tokenizer_recipe(root)
    if name == "generator":
        return tiny.generator_recipe(root, optimizer=tiny.adam(1e-3))
    return tiny.token_recipes(root)[2]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("tokenizer", "diffusion_pytorch_model.safetensors"),
        ("generator", "unet/diffusion_pytorch_model.safetensors"),
        ("transformer", "model.safetensors"),
    ],
)
def test_a_run_stopped_after_two_steps_of_three_ends_where_it_would_have(kept, name, weights):
    """In other digits at most: another processor rounds otherwise."""
    expected = load_file(kept / name / "model" / weights)
    shutil.rmtree(kept / name / "model")
    again = recipe(kept, name)
    again = replace(again, run=resumed(again.run))
    train = train_tokenizer if name == "tokenizer" else train_generator
    found = load_file(train(again) / weights)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, atol=1e-4), key


@pytest.mark.parametrize("name", ["tokenizer", "generator", "transformer"])
def test_a_run_that_has_ended_is_known_to_have(kept, name):
    again = recipe(kept, name)
    assert has_ended(resumed(again.run), again)


@pytest.mark.parametrize(("name", "tokenizer"), [("latents", "tokenizer"), ("tokens", "codes")])
def test_a_cache_is_read_and_belongs_to_its_tokenizer(kept, name, tokenizer):
    found = LatentCache(kept / name)
    assert len(found) == 32
    made = ImageTokenizer.load(str(kept / tokenizer / "model"))
    assert found.index.tokenizer == fingerprint(made)


def test_a_cache_that_is_whole_is_not_made_again(kept):
    before = {file: file.stat().st_mtime_ns for file in (kept / "latents").glob("*.safetensors")}
    cache(tiny.cache_recipe(kept))
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize("name", ["generator", "transformer"])
def test_a_pipeline_draws(kept, name):
    folder = str(kept / name / "model")
    images = torch.cat(list(sample(load(folder), ["a red circle"], [0], recommended(folder))))
    assert images.shape == (1, 3, tiny.SIZE, tiny.SIZE) and images.isfinite().all()
