"""`calotype restore`: what it writes, what it says, and what it refuses in a line."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import get_args

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from calotype import cli
from calotype.commands.damaged import Pieces
from calotype.commands.restore import Restore
from calotype.commands.restored import Files
from calotype.pipelines import load, picture
from calotype.tokenizers import ImageTokenizer
from calotype.uses.restoration import Inpaint, Posterior, Task, Way

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Pictures of two shapes; two of them have one name."""
    for i, image in enumerate(tiny.images(4)):
        folder = tmp_path / "photos" / ("b" if i == 3 else "a")
        folder.mkdir(parents=True, exist_ok=True)
        shape = (40, 34) if i == 1 else (33, 32)
        picture(image).resize(shape).save(folder / f"{min(i, 2)}.png")
    return tmp_path / "photos"


@pytest.fixture
def model(artifacts) -> str:
    return str(artifacts / "tokenizer")


def restore(*arguments: object) -> None:
    cli.main(["restore", *map(str, arguments), "--precision", "fp32", "--device", "cpu"])


def opened(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_clean_pictures_are_spoilt_restored_and_compared(photos, model, tmp_path, capsys):
    out = tmp_path / "out"
    restore(photos, "--model", model, "--degrade", "task:denoise", "--task.noise", 0.3, "--out",
            out, "--shown", 3, "--lpips")  # fmt: skip
    assert {file.name for file in out.iterdir()} == {
        "0.png", "1.png", "2.png", "2-2.png", "restored.html", "restored.json", "restored.txt"
    }  # fmt: skip
    assert opened(out / "0.png").shape == (32, 32, 3) and opened(out / "1.png").shape == (34, 40, 3)
    found = json.loads((out / "restored.json").read_text())
    assert found["pictures"] == 4 and found["task"] == {"type": "Denoise", "noise": 0.3}
    first, own, *classical = found["figures"]
    assert (first, own) == ("seen", "restored")
    assert [name.split(",")[0] for name in classical] == ["total variation", "non-local means"]
    # 10 log10(4 / 0.3^2) is 16.5 dB, and more where noise is clipped at black and white.
    assert 16.4 < found["figures"]["seen"]["psnr_db"] < 19.5
    assert found["figures"][classical[0]]["psnr_db"] > found["figures"]["seen"]["psnr_db"]
    page = (out / "restored.html").read_text()
    assert page.count("data:image/png") == 3 * 6 and "http" not in page.replace("http-equiv", "")
    said = capsys.readouterr()
    assert "total variation, weight" in " ".join(said.out.split())
    assert "was trained by no corruption" in " ".join(said.err.split())


def test_damaged_pictures_are_restored_and_what_is_seen_stays(photos, model, tmp_path):
    out = tmp_path / "out"
    restore(photos, "--model", model, "task:inpaint", "--task.box", 8, 8, 20, 16, "--out", out)
    found = opened(out / "0.png")
    before = np.asarray(Image.open(photos / "a/0.png").crop((0, 0, 32, 32)))
    hidden = np.zeros((32, 32), bool)
    hidden[8:16, 8:20] = True
    assert np.array_equal(found[~hidden], before[~hidden])
    assert not np.array_equal(found[hidden], before[hidden])
    told = json.loads((out / "restored.json").read_text())
    assert told["figures"] == {} and told["degraded"] is False
    page = (out / "restored.html").read_text()
    assert "biharmonic" in page and "difference" not in page.split("</style>")[-1]


@pytest.mark.parametrize(("learnt", "said"), [({"value": -1.0}, True), ({"value": None}, False)])
def test_hidden_pixels_that_training_showed_otherwise_are_told(
    learnt, said, photos, model, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(model, run)
    (run / "recipe.json").write_text(json.dumps({"corruption": {"type": "HiddenBox", **learnt}}))
    restore(photos, "--model", run, "task:inpaint", "--out", tmp_path / "out")
    told = " ".join(capsys.readouterr().err.split())
    assert ("--task.value -1.0 is what it knows" in told) is said


def test_small_pictures_become_larger_and_grey_ones_coloured(photos, model, tmp_path):
    for task, shape in ((("task:super-resolve", "--task.factor", 3), (96, 96, 3)),
                        (("task:colourise",), (32, 32, 3))):  # fmt: skip
        restore(photos / "a/0.png", "--model", model, *task, "--out", tmp_path / task[0])
        assert opened(tmp_path / task[0] / "0.png").shape == shape
    grey = np.asarray(Image.open(photos / "a/0.png").crop((0, 0, 32, 32)).convert("L"), np.int16)
    colours = Image.open(tmp_path / "task:colourise/0.png")
    # The luma is kept, but where a colour is outside of what 8 bits hold.
    inside = ((np.asarray(colours) > 0) & (np.asarray(colours) < 255)).all(-1)
    assert np.abs(np.asarray(colours.convert("L"), np.int16) - grey)[inside].max(initial=0) <= 2


def test_each_picture_is_spoilt_alike_whatever_is_beside_it(photos, model, tmp_path):
    for name, batch in (("one", 1), ("many", 8)):
        restore(photos, "--model", model, "--degrade", "--batch-size", batch, "--size", 16, "--out",
                tmp_path / name, "--no-baselines", "--lpips")  # fmt: skip
    for file in (tmp_path / "one").glob("*.png"):
        apart = opened(file).astype(int) - opened(tmp_path / "many" / file.name)
        assert np.abs(apart).max() <= 1


@pytest.mark.parametrize(
    ("kind", "way"),
    [("tokenizer", ("way:optimise", "--way.steps", "3")),
     ("unconditional", ("way:posterior", "--way.steps", "3")),
     ("generator", ("way:posterior", "--way.steps", "3", "--way.prompt", "a red circle"))],
)  # fmt: skip
def test_other_ways_by_their_models(kind, way, artifacts, photos, tmp_path):
    restore(photos, "--model", artifacts / kind, "--degrade", "task:inpaint", *way, "--size", 16,
            "--count", 2, "--out", tmp_path / "out", "--lpips")  # fmt: skip
    found = json.loads((tmp_path / "out/restored.json").read_text())
    assert found["pictures"] == 2 and set(found["figures"]) == {
        "seen", "restored", "biharmonic", "harmonic"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [("--count 0", "--count is 0: it must be at least 1"),
     ("task:inpaint --task.box 5 5 5 9", "--task.box is 5 5 5 9: it is left, top, right, bottom"),
     ("task:inpaint --task.box 90 0 99 9", "--task.box hides nothing of a picture of 32x32"),
     ("task:inpaint --task.mask none.png", "--task.mask: no picture none.png"),
     ("task:super-resolve --size 17", "--size is 17, no multiple of --task.factor 4"),
     ("--size 17", "images of 17 pixels cannot be encoded by a factor of 2"),
     ("way:posterior", "way:posterior draws by a diffusion model"),
     ("way:optimise --way.lr 0", "way.lr is 0.0: it must be positive"),
     ("task:denoise --task.noise -1", "task.noise is -1.0: it must be positive")],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments, answer, photos, model, tmp_path, capsys
):
    with pytest.raises(SystemExit) as stop:
        restore(photos, "--model", model, *arguments.split(), "--out", tmp_path / "out")
    assert stop.value.code == 2 and answer in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def numbers() -> list[tuple[str, ...]]:
    """Flags of the command that take a number, behind the choice that they are of."""
    found = list[tuple[str, ...]]()
    for part, kinds in (("task", get_args(Task)), ("way", get_args(Way)), ("", (Restore,))):
        for kind in kinds:
            choice = [f"{part}:{kebab(kind.__name__)}"] if part else []
            names = [f.name for f in fields(kind) if re.search(r"\b(int|float)\b", str(f.type))]
            found += [(*choice, "--" + kebab(f"{part}.{name}".strip("."))) for name in names]
    return found


def kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower().replace("_", "-")


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("flag", numbers(), ids=" ".join)
def test_bug_numbers_that_are_none_passed(flag, value, photos, model, tmp_path, capsys):
    """`x < 0` is false of nan, which went on into the work."""
    values = [value] * (4 if flag[-1] == "--task.box" else 1)
    with pytest.raises(SystemExit) as stop:
        restore(photos, "--model", model, *flag, *values, "--out", tmp_path / "out")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and flag[-1].removeprefix("--") in said and value in said
    assert not (tmp_path / "out").exists()


def test_places_that_are_wrong_are_said(photos, model, tmp_path, capsys, monkeypatch):
    for pictures, out, answer in [
        ("nowhere", "out", "no picture and no folder nowhere"),
        (photos, photos, "where the pictures are: name another folder"),
        (photos, photos / "a/0.png", "a file: name a folder"),
    ]:
        with pytest.raises(SystemExit):
            restore(pictures, "--model", model, "--out", out)
        assert answer in capsys.readouterr().err
    monkeypatch.setattr("calotype.commands.restore.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        restore(photos, "--model", model)
    assert 'pip install "calotype[uses]"' in capsys.readouterr().err


def test_bug_originals_were_written_over(photos, model, tmp_path, capsys):
    """By a picture of the folder, and by a folder within the folder."""
    before = {file: file.read_bytes() for file in photos.rglob("*.png")}
    for pictures, out, answer in [
        (photos / "a/0.png", photos / "a", "where the pictures are: name another folder"),
        (photos, photos / "a", "which holds 0.png and is no folder of what restore wrote"),
    ]:
        with pytest.raises(SystemExit):
            restore(pictures, "--model", model, "--out", out, "--no-baselines")
        assert answer in capsys.readouterr().err
    assert {file: file.read_bytes() for file in photos.rglob("*.png")} == before
    for _ in range(2):  # its own folder it may write anew
        restore(photos, "--model", model, "--out", tmp_path / "out", "--no-baselines")


def test_bug_a_run_that_was_cut_refused_its_own_folder(photos, model, tmp_path, monkeypatch):
    """And of a longer run pictures stayed among those of a shorter one."""
    out, whole = tmp_path / "out", Files.save
    options = ("--model", model, "--out", out, "--no-baselines", "--batch-size", 1)

    def cut(self: Files, name: str, image: torch.Tensor) -> None:
        if Path(name).stem == "2":
            raise KeyboardInterrupt
        whole(self, name, image)

    def told() -> set[str]:
        return {file.name for file in out.iterdir()}

    restore(photos, *options)
    (out / "own.txt").write_text("of the user")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Files, "save", cut)
        restore(photos, *options)
    assert told() == {"0.png", "1.png", "restored.txt", "own.txt"}
    before = opened(out / "0.png")
    (out / ".1.png.partial").write_bytes(b"killed while it was written")
    restore(photos, *options, "task:denoise", "--count", 1, "--size", 16)
    made = {"0.png", "restored.html", "restored.json", "restored.txt"}
    assert told() == made | {"own.txt"}
    assert opened(out / "0.png").shape != before.shape
    # A run that restores nothing leaves what is there.
    with pytest.raises(SystemExit):
        restore(photos, *options, "task:inpaint", "--task.box", 90, 0, 99, 9)
    assert told() == made | {"own.txt"}


def test_bug_pictures_of_a_table_were_named_with_half_of_a_bracket(tmp_path):
    files, image = Files(tmp_path), torch.zeros(3, 8, 8)
    for name in ("some.parquet row 3 (a b/cat_1.webp)", "other/cat_1.png", "cat (2).png"):
        files.save(name, image)
    assert {each.name for each in tmp_path.glob("*.png")} == {
        "cat_1.png", "cat_1-2.png", "cat (2).png"
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:skipped")
def test_bug_a_picture_that_was_too_small_or_broken_ended_it_midway(
    photos, model, tmp_path, capsys
):
    """All others are restored, the page is written, and it is named at the end."""
    Image.new("RGB", (1, 9)).save(photos / "a/1.png")
    (photos / "a/0.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stop:
        restore(photos, "--model", model, "--degrade", "--out", tmp_path / "out", "--no-baselines")
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2 and "2 of 4 files were not restored" in said
    assert "1.png is 1x9, and a side has 2 pixels or more here" in said and "0.png" in said
    made = {"2.png", "2-2.png", "restored.html", "restored.json", "restored.txt"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == made


def test_bug_pictures_of_each_batch_had_the_noise_of_the_first(artifacts, photos, tmp_path):
    for size in (1, 2):
        restore(photos / "a", "--model", artifacts / "unconditional", "way:posterior",
                "--way.steps", 2, "--size", 16, "--batch-size", size, "--out",
                tmp_path / f"{size}", "--no-baselines")  # fmt: skip
    for name in ("0", "1", "2"):
        one, two = (opened(tmp_path / f"{size}/{name}.png").astype(int) for size in (1, 2))
        assert np.abs(one - two).max() <= 1


def test_bug_a_mask_did_not_lie_where_its_picture_did(tmp_path):
    """Of sides that are no multiple of the factor pixels were cut, and the mask was scaled."""
    mask = np.zeros((45, 50), np.uint8)
    mask[10:20, 20:32] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    task = Inpaint(mask=tmp_path / "mask.png")
    shown = Image.fromarray(np.repeat(mask[..., None], 3, 2))
    given = Pieces(task, True, None, 8, "RGB", 0).given(0, "x", shown)
    assert given.truth is not None and given.truth.shape[-2:] == (40, 48)
    assert torch.equal(given.measurement.hidden[0, 0] > 0, given.truth[0, 0] > 0)


def test_solvers_that_hold_all_noise_are_refused(artifacts):
    """Their latents were taken for such as keep their variance, and nonsense was drawn."""
    pipeline = load(artifacts / "unconditional")
    pipeline.scheduler = diffusers.DDPMScheduler()
    assert Posterior(scheduler="ddim").check(pipeline) is pipeline
    for name in ("euler", "heun", "lms"):
        with pytest.raises(ValueError, match=f"--way.scheduler {name} holds latents with all"):
            Posterior(scheduler=name).check(pipeline)


def test_bug_a_prompt_that_nothing_reads_was_passed_over(artifacts):
    with pytest.raises(ValueError, match="this pipeline reads none"):
        Posterior(prompt="a cat").check(load(artifacts / "unconditional"))


def test_the_python_of_its_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer().save(Path("runs/small-inpaint/model"))
    page = (ROOT / "docs/restoring.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "restoring.md", "exec"), {})


def test_a_grey_tokenizer_restores_grey_pictures(photos, tmp_path):
    torch.manual_seed(0)
    tiny.tokenizer(channels=1).save(tmp_path / "grey")
    assert ImageTokenizer.load(tmp_path / "grey").mode == "L"
    restore(photos, "--model", tmp_path / "grey", "--degrade", "--out", tmp_path / "out", "--lpips")
    assert opened(tmp_path / "out/0.png").shape == (32, 32)
