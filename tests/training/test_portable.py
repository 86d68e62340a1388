"""Folders that are given away."""

import json
import os

import diffusers
import pytest
import torch
from safetensors.torch import save_file

import tiny
from calotype.training.portable import make_portable, public


@pytest.mark.parametrize(("value", "shown"), [
    ("/home/me/photos/", "photos"), ("~/run", "run"), ("../a/b", "b"), ("C:\\\\me\\\\x", "x"),
    ("runs/x/model", "runs/x/model"), ("me/name@v1", "me/name@v1"), (3, 3), (None, None),
    ("https://me:secret@host/a.tar?key=1", "https://host/a.tar"),
    ({"a": ["/x/y", {"b": "/z/w"}]}, {"a": ["y", {"b": "w"}]}),
])  # fmt: skip
def test_what_is_public_says_nothing_of_the_machine(value, shown):
    assert public(value) == shown


@pytest.fixture
def umask():
    was = os.umask(0o022)
    yield os.umask
    os.umask(was)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_bug_weights_were_readable_by_nobody_else(mask, mode, umask, tmp_path):
    """safetensors writes them so, whatever the umask is."""
    umask(mask)
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, folder / "unet/model.safetensors")
    (folder / "config.json").write_text("{}")
    make_portable(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert [file.stat().st_mode & 0o777 for file in files] == 2 * [mode]


def test_configs_say_neither_where_a_part_came_from_nor_what_is_no_json(tmp_path):
    scheduler = diffusers.DPMSolverMultistepScheduler(lambda_min_clipped=-float("inf"))
    scheduler.register_to_config(_name_or_path="/home/somebody/runs")
    scheduler.save_pretrained(tmp_path)
    make_portable(tmp_path)
    file = tmp_path / "scheduler_config.json"
    text = file.read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert "somebody" not in text
    again = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert again.config["lambda_min_clipped"] == -float("inf")
    before = file.stat().st_mtime_ns
    make_portable(tmp_path)
    assert file.stat().st_mtime_ns == before, "what is clean is not written again"


def test_saved_folders_are_portable(artifacts, umask, tmp_path):
    """Of tokenizers, pipelines and transformers, whatever they were loaded from."""
    tuned = tiny.tokenizer(seed=1)
    tuned.autoencoder.register_to_config(_name_or_path=str(tmp_path))
    tuned.save(tmp_path / "tuned")
    folders = [tmp_path / "tuned", *(artifacts / name / "model"
               for name in ("tokenizer", "generator", "unconditional"))]  # fmt: skip
    for file in (file for folder in folders for file in folder.rglob("*") if file.is_file()):
        assert file.stat().st_mode & 0o777 == 0o644, file
        if file.suffix == ".json":
            text = file.read_text()
            json.loads(text, parse_constant=pytest.fail)
            assert str(artifacts) not in text and str(tmp_path) not in text, file
