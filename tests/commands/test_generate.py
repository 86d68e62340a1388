"""`calotype generate`: what it leaves beside the pictures, and which pipeline it takes."""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from calotype.autoregressive import TokenSampling
from calotype.commands import drawings
from calotype.commands.drawings import Drawings
from calotype.commands.generate import Generate, generate
from calotype.commands.paths import Prompts
from calotype.commands.shared import Shared
from calotype.pipelines import Choice, load
from calotype.pipelines.folders import fingerprint, pipelines_under
from calotype.training import precision as precisions
from calotype.training.description import describe

FEW = Choice(steps=2)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "drawn.jsonl").read_text().splitlines()]


def test_a_folder_says_which_model_drew_what(artifacts, tmp_path):
    text, silent = (str(artifacts / name / "model") for name in ("generator", "unconditional"))
    out = tmp_path / "out"
    generate(Generate(("a red circle",), pipeline=text, out=out, images=2, seed=3, sampling=FEW,
                      precision="fp32"))  # fmt: skip
    generate(Generate((), pipeline=silent, out=out, sampling=FEW, precision="bf16", device="cpu"))
    first, second, third = lines(out)
    assert (first["file"], first["prompt"], first["seed"]) == (
        "000-a-red-circle-3.png", "a red circle", 3
    )  # fmt: skip
    assert second["seed"] == 4 and third["file"] == "002-empty-0.png"
    assert all((out / line["file"]).exists() for line in lines(out))
    assert first["pipeline"] == text and third["pipeline"] == silent
    assert first["fingerprint"] == second["fingerprint"] == fingerprint(load(text))
    assert third["fingerprint"] == fingerprint(load(silent)) != first["fingerprint"]
    assert first["sampling"]["steps"] == 2
    assert [line["precision"] for line in lines(out)] == ["fp32", "fp32", "bf16"]
    assert first["device"] in ("cpu", "cuda")


@pytest.mark.parametrize("kind", ["generator", "unconditional"])
def test_a_pipeline_draws_in_any_precision(kind, artifacts, tmp_path):
    """The same picture but for rounding."""
    drawn = {}
    for precision in ("fp32", "bf16", "fp16"):
        asked = () if kind == "unconditional" else ("x",)
        options = Generate(asked, pipeline=str(artifacts / kind / "model"), sampling=FEW,
                           out=tmp_path / precision, precision=precision)  # fmt: skip
        name = "000-x-0.png" if asked else "000-empty-0.png"
        with Image.open(generate(options) / name) as image:
            drawn[precision] = np.asarray(image, dtype=int)
    for name in ("bf16", "fp16"):
        assert abs(drawn[name] - drawn["fp32"]).mean() < 8


def test_small_images_are_enlarged_over_their_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr(drawings, "EACH", 2)
    images = tiny.images(3)
    for _ in range(2):
        with Drawings(tmp_path, {}) as folder:
            for i, image in enumerate(images):
                folder.add(image, f"prompt {i}", i)
    sheets = sorted(file.name for file in tmp_path.glob("sheet-*.png"))
    assert sheets == [f"sheet-{name}.png" for name in ("000-001", "002-002", "003-004", "005-005")]
    with Image.open(tmp_path / sheets[0]) as sheet:
        levels = np.asarray(sheet)
    assert levels.shape[1] == 8 + 2 * (256 + 8)
    with Image.open(tmp_path / "001-prompt-1-1.png") as single:
        assert single.size == (tiny.SIZE, tiny.SIZE)
        shown = levels[8 : 8 + 256 : 16, 8 + 264 : 8 + 264 + 256 : 16]
        assert (shown == np.asarray(single)).all()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_large_images_need_no_sheet(tmp_path):
    with Drawings(tmp_path / "out", {}) as folder:
        folder.add(torch.zeros(3, 256, 256), "x", 0)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "000-x-0.png", "drawn.jsonl"
    ]  # fmt: skip


def test_a_line_that_was_cut_in_two_costs_no_other(tmp_path):
    file = tmp_path / "drawn.jsonl"
    file.write_text('{"file": "a.png"}\n{"file": "b.p')
    shared = Shared(tmp_path)
    for name in ("ç.png", "d.png"):
        shared.note({"file": name})
    assert [line["file"] for line in shared.drawn()] == ["a.png", "ç.png", "d.png"]
    shared.close()
    first, torn, *rest = file.read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["file"] == "a.png" and torn == '{"file": "b.p'
    assert [json.loads(line)["file"] for line in rest] == ["ç.png", "d.png"]


def test_the_newest_pipeline_is_taken_and_named(artifacts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("generator", "unconditional")):
        shutil.copytree(artifacts / name / "model", tmp_path / "runs" / name / "model")
        for index in ("model_index.json", "calotype.json"):
            os.utime(tmp_path / "runs" / name / "model" / index, (1000 - i, 1000 - i))
    shutil.copytree(artifacts / "generator/model", tmp_path / "runs/x/.model.partial")
    out = generate(Generate(("a",), sampling=FEW))
    said = capsys.readouterr().out
    assert said == ("drawing with runs/generator/model, the newest pipeline under runs/; "
                    "--pipeline names another\n"
                    "seed 0 of each prompt; --seed 1 draws others\n")  # fmt: skip
    assert lines(out)[0]["pipeline"] == "runs/generator/model"
    os.utime(tmp_path / "runs/unconditional/model/calotype.json", (2000, 2000))
    assert pipelines_under(Path("runs"))[0] == Path("runs/unconditional/model")


def test_what_another_kind_of_pipeline_can_do_is_said_with_one_that_can(
    artifacts, tmp_path, monkeypatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    transformer = Path("runs/ar/model")
    transformer.mkdir(parents=True)
    how = {"layout": {}, "sampling": describe(TokenSampling())}
    (transformer / "calotype.json").write_text(json.dumps(how))
    with pytest.raises(ValueError, match=r"^--between is for a d.*, and this is a transformer$"):
        generate(Generate(("a", "b"), between=Prompts(3)))
    shutil.copytree(artifacts / "generator/model", "runs/generator/model")
    for name, asked in (("ar", {"between": Prompts(3)}), ("generator", {"candidates": 2})):
        other = {"ar": "generator", "generator": "ar"}[name]
        with pytest.raises(ValueError, match=f"name one by --pipeline runs/{other}/model$"):
            generate(Generate(("a", "b"), pipeline=f"runs/{name}/model", **asked))


def test_a_prompt_that_is_given_twice_is_drawn_once_and_said(artifacts, tmp_path, capsys):
    out = generate(Generate(("a b", "a b"), pipeline=str(artifacts / "generator/model"),
                            images=2, out=tmp_path / "out", sampling=FEW))  # fmt: skip
    said = capsys.readouterr()
    assert len(lines(out)) == 2 and said.out.startswith("1 of 2 prompts repeat others")


def test_what_lies_between_two_prompts_is_told_from_them(artifacts, tmp_path, monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr(drawings, "write_sheet", lambda file, images, captions, **how:
                        shown.extend(captions))  # fmt: skip
    out = generate(Generate(("a b", "c d"), pipeline=str(artifacts / "generator/model"),
                            between=Prompts(3), out=tmp_path, sampling=FEW))  # fmt: skip
    assert shown == ["a b", "a b, 50% toward c d", "c d"]
    ends = [(line["toward"]["prompt"], line["toward"]["part"]) for line in lines(out)]
    assert ends == [("a b", 0.0), ("c d", 0.5), ("c d", 0.0)]


def test_no_pipeline_at_all_is_said_with_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no pipeline under runs/ yet: `calotype demo` and"):
        generate(Generate(("a",)))
    assert not any(tmp_path.iterdir())


def test_a_precision_that_is_emulated_is_warned_of(artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(precisions, "in_hardware", lambda name, device: name == "fp32")
    monkeypatch.setattr(precisions, "seconds", lambda call, device: 1.0)
    pipeline = str(artifacts / "generator/model")
    how = {"pipeline": pipeline, "out": tmp_path / "out", "sampling": FEW, "device": "cpu"}
    with pytest.warns(UserWarning, match=r"precision bf16: this CPU .* only emulates it"):
        generate(Generate(("a red circle",), precision="bf16", **how))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*emulates")
        generate(Generate(("a red circle",), precision="auto", **how))
