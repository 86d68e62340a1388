"""The command: layouts as they come, a page, JSON and CSV, both directions, mistakes in a line."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from calotype import cli
from calotype.commands import detect as command
from calotype.data.drawn.defects import planted
from calotype.data.folders.inspection import inspected, normal_in, read_masks, read_pictures
from calotype.data.reading.transforms import CenterCrop, Transform

SIZE = tiny.SIZE


def save(folder: Path, count: int, seed: int, kind: str | None = None) -> None:
    """Pictures of 16 pixels, with masks where they have defects."""
    folder.mkdir(parents=True)
    for i, image in enumerate(tiny.images(count, seed)):
        pixels = image.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
        if kind is not None:
            pixels, mask = planted(pixels, kind, np.random.default_rng(i))
            truth = folder.parents[1] / "ground_truth" / folder.name
            truth.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(truth / f"{i:03}_mask.png")
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


@pytest.fixture(scope="module")
def bottle(tmp_path_factory) -> Path:
    """A category as MVTec AD has it."""
    root = tmp_path_factory.mktemp("mvtec") / "bottle"
    save(root / "train/good", 30, 0)
    save(root / "test/good", 6, 1)
    save(root / "test/scratch", 5, 2, "scratch")
    save(root / "test/stain", 5, 3, "blob")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tokenizer"
    tiny.tokenizer(0, tiny.BOTTLENECKS["vq-loss"]).save(folder)
    return folder


QUICK = "--rule.false-alarm-rate 0.2 --device cpu --shown 4".split()


def test_mvtecs_layout_is_read_as_it_comes(bottle):
    found = inspected(bottle)
    assert found.labels == ["good"] * 6 + ["scratch"] * 5 + ["stain"] * 5
    assert found.anomalous == [False] * 6 + [True] * 10
    assert normal_in(bottle) == bottle / "train/good" and normal_in(bottle, "validation") is None
    assert inspected(bottle / "test") == found
    transform = Transform(CenterCrop(SIZE))
    assert found.masks is not None and found.masks[:6] == [None] * 6
    masks = read_masks(found.masks, transform, (SIZE, SIZE))
    assert masks.any((1, 2)).tolist() == found.anomalous
    images = read_pictures(found.files, transform)
    again, mask = planted(read_clean(2, 0), "scratch", np.random.default_rng(0))
    assert np.array_equal(images[6].permute(1, 2, 0).numpy(), again)
    assert np.array_equal(masks[6].numpy(), mask)


def read_clean(seed: int, place: int) -> np.ndarray:
    image = tiny.images(place + 1, seed)[place]
    return image.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()


def test_masks_are_cropped_as_pictures_are(tmp_path):
    """Bug: of a wide picture the mask was squeezed, and lay beside the defect."""
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[5:10, 30:40] = 255
    for where, pixels in (("test/good/0.png", wide * 0), ("test/dent/0.png", wide),
                          ("ground_truth/dent/0_mask.png", wide[..., 0])):  # fmt: skip
        (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / where)
    found, transform = inspected(tmp_path), Transform(CenterCrop(20))
    assert found.masks is not None
    place = found.anomalous.index(True)
    image = read_pictures(found.files, transform)[place, 0].numpy() > 127
    assert np.array_equal(read_masks(found.masks, transform, (20, 20))[place].numpy(), image)


def test_the_command_writes_page_and_figures(bottle, model, tmp_path, capsys):
    out = tmp_path / "new/found.html"
    cli.main(["detect", "--model", str(model), "--data", str(bottle), "--out", str(out), *QUICK])
    said, page = capsys.readouterr().out, out.read_text()
    told = json.loads(out.with_suffix(".json").read_text())
    for name in ("pixel error", "latents, each place", "code distance", "pixels, principal",
                 "untrained: encoder, nearest"):  # fmt: skip
        assert name in said and name in page and name in told["scores"]
    each = told["scores"]["pixels, each place"]
    assert 0 <= each["aupro"] <= 1 and 0 <= each["reversed"] <= 1 and each["threshold"] > 0
    assert (told["normal"], told["held_out"], told["judged"]) == (22, 8, 16)
    bare = {name for name, each in told["scores"].items() if each["reversed"] is None}
    alone = {"pixel error", "structural error", "code distance"}
    assert bare == alone | {f"untrained: {name}" for name in alone}
    assert "as it would be about 1 - AUROC: --reverse-model names" in said
    assert "fails one way" in said and "trained on, which look" in said
    assert page.count("where it is</figcaption>") == 4 and "http" not in page.split("<body>")[1]
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["good"] * 6 + ["scratch"] * 5 + ["stain"] * 5
    for row in rows:
        p, alarm = float(row["pixel error: p"]), row["pixel error: alarm"]
        assert alarm == str(int(p <= 0.2))


def test_pictures_without_labels_are_judged(bottle, model, tmp_path, capsys):
    out = tmp_path / "found.html"
    flat = bottle / "test/scratch"
    cli.main(["detect", "--model", str(model), "--normal", str(bottle), "--data", str(flat),
              "--validation", str(bottle / "test/good"), "--out", str(out), *QUICK])  # fmt: skip
    said = capsys.readouterr().out
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["scores"]["pixel error"]["auroc"] is None and told["normal"] == 30
    assert "| threshold | alarms |" in said and "of 5 |" in said
    assert "trained on, which look" not in said and "not asked in reverse" in said


def test_two_sets_are_told_from_each_other(bottle, model, tmp_path, capsys):
    """Either way round, by a tokenizer of each."""
    other = tmp_path / "noise"
    other.mkdir()
    for i in range(12):
        levels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(levels).save(other / f"{i}.png")
    out = tmp_path / "found.html"
    cli.main(["detect", "--model", str(model), "--normal", str(bottle), "--against", str(other),
              "--reverse-model", str(model), "--out", str(out), *QUICK])  # fmt: skip
    told = json.loads(out.with_suffix(".json").read_text())
    assert (told["normal"], told["held_out"], told["judged"]) == (16, 8, 6 + 12)
    assert all(each["reversed"] is not None for each in told["scores"].values())
    assert "1 - AUROC" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("", "--data, --against: name one of them"),
        ("--data {b} --against {b}", "--data, --against: name one of them"),
        ("--data {b}/test/scratch", "--normal is missing, and"),
        ("--data {b} --normal nowhere", "no folder nowhere: name one with pictures"),
        ("--data {b}/ground_truth --normal {b}", "is called good or normal or ok"),
        ("--data {b}/train --normal {b} --rule.false-alarm-rate 0.01",
         "rate of 0.01 takes 99 held-out normals, and there are 8"),
        ("--data {b} --rule.top 0", "rule.top is 0.0: it must be above 0"),
        ("--data {b} --held-out 1", "--held-out is 1.0: it must lie between 0 and 1"),
        ("--data {b} --out x.csv", "--out is x.csv: name a page"),
        ("--data {b}/test/scratch --normal {b} --reverse-model x --rule.false-alarm-rate 0.2",
         "--reverse-model: which pictures are anomalous is not known; name other pictures by"),
        ("--against {b}/test/scratch --normal {b} --reverse-model x --rule.false-alarm-rate 0.2",
         "--reverse-model: 5 anomalous and 6 normal pictures are too few: it takes 8 and one"),
        ("--data {b}/train --normal {b} --reverse-model x --rule.false-alarm-rate 0.2",
         "--reverse-model: 0 anomalous and 30 normal pictures are too few"),
        ("--data {b} --size 0", "--size is 0: it must be at least 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_any_work(arguments, answer, bottle, monkeypatch, capsys):
    monkeypatch.setattr(command, "load", lambda path: pytest.fail("a model was loaded"))
    words = arguments.format(b=bottle).split()
    with pytest.raises(SystemExit) as stop:
        cli.main(["detect", "--model", "none", *words])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and answer in said, said


def test_a_missing_mask_and_mixed_folders_are_refused(tmp_path):
    save(tmp_path / "a/test/good", 1, 0)
    save(tmp_path / "a/test/blob", 1, 1, "blob")
    (tmp_path / "a/ground_truth/blob/000_mask.png").rename(tmp_path / "a/ground_truth/blob/1.png")
    with pytest.raises(FileNotFoundError, match=r"no mask of .*000\.png: expected"):
        inspected(tmp_path / "a")
    save(tmp_path / "a/test/good/deeper", 1, 0)
    with pytest.raises(ValueError, match="has pictures, and a sub-folder deeper with pictures"):
        inspected(tmp_path / "a/test/good")


def test_what_the_page_says_from_python():
    page = Path(__file__).parents[2] / "docs/detection.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
