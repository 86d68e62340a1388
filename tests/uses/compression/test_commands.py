"""`compress`, `decompress` and `fit-entropy-model`, as they are typed."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image

import coded
import tiny
from calotype import cli
from calotype.pipelines import picture
from calotype.uses.compression import Codec


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return coded.save(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five pictures of the transformer's size and one of another, in two folders."""
    root = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(tiny.images(5)):
        file = root / ("a" if i % 2 else "b/c") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(image).save(file)
    Image.new("RGB", (24, 10), "red").save(root / "a/wide.jpg")
    return root


def said(capsys, arguments: list[str]) -> tuple[int, str]:
    """Exit code of a command, and all that it said."""
    try:
        cli.main(arguments)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    told = capsys.readouterr()
    return code, told.out + told.err


def levels(file: Path) -> np.ndarray:
    with Image.open(file) as opened:
        return np.array(opened)


def fitted(model: Path, folder: Path, capsys) -> None:
    sized = ["--data.path", str(folder), "--size", "16"]
    code, told = said(capsys, ["fit-entropy-model", str(model / "vqvae"), *sized])
    assert code == 0, told


def test_pictures_become_files_and_pictures_again(model, folder, tmp_path, capsys):
    fitted(model, folder, capsys)
    out, back = tmp_path / "out", tmp_path / "back"
    by = ["--model", str(model), "--precision", "fp32", "--out"]
    code, told = said(capsys, ["compress", str(folder), *by, str(out)])
    assert code == 0 and "6 pictures" in told and "bits a pixel" in told, told
    names = {str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.*")}
    assert {str(file.relative_to(out))[:-5] for file in out.rglob("*") if file.is_file()} == names
    code, told = said(capsys, ["decompress", str(out), *by, str(back)])
    assert code == 0, told
    codec = Codec.load(model)
    for name in names - {"a/wide"}:
        real = torch.from_numpy(levels(folder / f"{name}.png")).permute(2, 0, 1)
        rebuilt = codec.tokenizer.reconstruct(real[None])[0]
        wanted = np.array(picture(rebuilt)).astype(int)
        found = levels(back / f"{name}.png").astype(int)
        assert abs(wanted - found).max() <= 1
    with Image.open(back / "a/wide.png") as wide:
        assert wide.size == (24, 10)


def test_damaged_foreign_and_others_files_are_named_and_the_rest_decoded(
    model, folder, tmp_path, capsys
):
    fitted(model, folder, capsys)
    out, back = tmp_path / "out", tmp_path / "back"
    assert said(capsys, ["compress", str(folder), "--model", str(model), "--out", str(out)])[0] == 0
    files = sorted(out.rglob("*.calo"))
    cut, flipped = files[0], files[1]
    cut.write_bytes(cut.read_bytes()[:-3])
    flipped.write_bytes(flipped.read_bytes()[:-6] + b"?" + flipped.read_bytes()[-5:])
    (out / "foreign.calo").write_bytes(b"something else entirely")
    stranger = coded.codec(tiny.VQ_BOTTLENECK, seed=5)
    (out / "other.calo").write_bytes(stranger.compress(tiny.images(1))[0])
    arguments = ["decompress", str(out), "--model", str(model), "--out", str(back)]
    code, told = said(capsys, arguments)
    assert code == 2 and "4 of 8 files were not decompressed" in told
    assert all(str(file) in told for file in (cut, flipped, out / "foreign.calo"))
    assert f"{out / 'other.calo'}: compressed by the model" in told
    assert len(list(back.rglob("*.png"))) == 4
    assert not [file for file in back.rglob(".*")]


def test_bug_originals_were_replaced_by_what_came_back(model, folder, tmp_path, capsys):
    fitted(model, folder, capsys)
    photos = Path(copytree(folder, tmp_path / "photos"))
    before = {file: file.read_bytes() for file in photos.rglob("*.png")}
    by = ["--model", str(model), "--out", str(photos)]
    assert said(capsys, ["compress", str(photos), *by])[0] == 0
    code, told = said(capsys, ["decompress", str(photos), *by])
    assert code == 2 and "5 of the pictures to write are there already" in told
    assert {file: file.read_bytes() for file in photos.rglob("*.png")} == before


@pytest.mark.filterwarnings("ignore:skipped")
def test_broken_pictures_are_named_and_the_rest_compressed(model, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    picture(tiny.images(1)[0]).save(photos / "good.png")
    (photos / "broken.png").write_bytes((photos / "good.png").read_bytes()[:60])
    arguments = ["compress", str(photos), "--model", str(model), "--out", str(out)]
    code, told = said(capsys, arguments)
    assert code == 2 and "1 of 2 files were not compressed" in told and "broken.png" in told
    assert [file.name for file in out.iterdir()] == ["good.calo"]


def test_a_size_that_nothing_knows_is_answered_in_one_line(tmp_path, folder, capsys):
    model = coded.save(tmp_path / "model")
    arguments = ["compress", str(folder), "--model", str(model), "--out", str(tmp_path / "out")]
    code, told = said(capsys, arguments)
    assert code == 2 and "24x10 pixels, and the transformer codes 16x16: resize by --size" in told
    assert len(list((tmp_path / "out").rglob("*.calo"))) == 5
    code, told = said(capsys, [*arguments, "--size", "16"])
    assert code == 0 and "6 pictures" in told


def test_pictures_that_would_become_one_file_are_refused(model, tmp_path, capsys):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    out = tmp_path / "out"
    code, told = said(capsys, ["compress", str(tmp_path), "--model", str(model), "--out", str(out)])
    assert code == 2 and "a.jpg" in told and "rename one" in told and not out.exists()


def test_a_continuous_tokenizer_is_compressed_by_its_hyperprior(tmp_path, folder, capsys):
    tokenizer = tmp_path / "kl"
    tiny.tokenizer().save(tokenizer)
    arguments = ["compress", str(folder), "--model", str(tokenizer), "--out"]
    code, told = said(capsys, [*arguments, str(tmp_path / "out")])
    assert code == 2 and "calotype fit-entropy-model" in told
    small = ["--hyperprior.steps", "10", "--hyperprior.width", "8", "--hyperprior.channels", "2"]
    fit = ["fit-entropy-model", str(tokenizer), "--data.path", str(folder), "--size", "16", *small]
    assert said(capsys, fit)[0] == 0
    sizes = []
    for step in ("0.1", "1"):
        code, told = said(capsys, [*arguments, str(tmp_path / step), "--step", step])
        assert code == 0, told
        sizes.append(sum(file.stat().st_size for file in (tmp_path / step).rglob("*.calo")))
        back = ["--model", str(tokenizer), "--out", str(tmp_path / f"back{step}")]
        assert said(capsys, ["decompress", str(tmp_path / step), *back])[0] == 0
        assert len(list((tmp_path / f"back{step}").rglob("*.png"))) == 6
    assert sizes[0] > sizes[1]
    tiny.tokenizer(1).save(tokenizer)
    code, told = said(capsys, [*arguments, str(tmp_path / "out")])
    assert code == 2 and "fit-entropy-model again" in told


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["compress", "photos", "--batch-size", "0"], "--batch-size is 0"),
        (["compress", "photos", "--size", "0"], "--size is 0"),
        (["compress", "photos", "--step", "0"], "a step of 0"),
        (["compress", "photos"], "photos"),
        (["rate-distortion", "m", "--steps", "0"], "a step of 0"),
        (["rate-distortion", "m", "--steps"], "--steps"),
        (["decompress", "nowhere", "--batch-size", "0"], "--batch-size is 0"),
        (["decompress", "nowhere"], "there is no folder nowhere"),
        (["fit-entropy-model", "nowhere", "--hyperprior.steps", "0"], "--hyperprior.steps is 0"),
        (["fit-entropy-model", "./nowhere"], "no folder"),
    ],
)
def test_mistakes_are_answered_in_one_line(arguments, answer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, told = said(capsys, arguments)
    assert code == 2 and answer in told and len(told.splitlines()) == 1, told
    assert not list(tmp_path.iterdir())
