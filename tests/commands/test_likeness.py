"""Each PNG says how it was drawn, and is drawn again from that."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import tiny
from calotype.commands.artist import Continuer, Diffuser, again
from calotype.commands.cache_latents import cache
from calotype.commands.generate import Generate, generate
from calotype.commands.likeness import read
from calotype.commands.paths import Latents, Prompts
from calotype.commands.pictures import ImageOf, TopOf, from_here
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.pipelines import Choice, Sampling, Wanted, load, picture

pytestmark = pytest.mark.filterwarnings("ignore:.*codes")  # three steps use few

FEW = Choice(steps=3, guidance=2.0, batch_size=3)
PROMPTS = ("a red circle", "a large blue square on the left")


@pytest.fixture(scope="module")
def transformer(tmp_path_factory) -> Path:
    tokenizer, cached, recipe = tiny.token_recipes(tmp_path_factory.mktemp("tokens"))
    train_tokenizer(tokenizer)
    cache(cached)
    return train_generator(recipe)


def pngs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.png") if path.name[:3].isdigit())


def same(asked: Generate, capsys) -> None:
    """All that are drawn, drawn again into another folder: to the pixel, and it is said."""
    out = generate(asked)
    for file in pngs(out):
        capsys.readouterr()
        there = out.with_name("again")
        generate(Generate((), asked.pipeline, there, like=file))
        said = capsys.readouterr().out
        assert f"the same pixels as {file}" in said, said
        made = pngs(there)[-1]
        with Image.open(made) as image, Image.open(file) as first:
            assert image.tobytes() == first.tobytes()
            assert image.info["calotype"] == first.info["calotype"]


def test_images_of_a_batch_are_drawn_again(artifacts, tmp_path, capsys):
    folder = str(artifacts / "generator/model")
    same(Generate(PROMPTS, folder, tmp_path / "out", images=2, sampling=FEW), capsys)


def test_images_of_every_kind_are_drawn_again(inpainter, artifacts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tiny.images(1)[0]).save("a.png")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 8, 16, 16))
    mask.save("m.png")
    folder = str(inpainter)
    over = {"image": ImageOf(Path("a.png"), 0.5), "precision": "bf16"}
    part = {"image": ImageOf(Path("a.png"), mask=Path("m.png"))}
    random = Choice(steps=3, batch_size=2, scheduler="dpm++-sde", negative_prompt="x",
                    guidance_rescale=0.5)  # fmt: skip
    for i, (prompts, changes) in enumerate([
        (PROMPTS, {"width": 32, "height": 16, "sampling": random}), (PROMPTS, over), ((), part),
        (PROMPTS, {"between": Prompts(3)}), (PROMPTS[:1], {"between": Latents(3), "seed": 9}),
    ]):  # fmt: skip
        asked = Generate(prompts, folder, tmp_path / str(i) / "out", **{"sampling": FEW, **changes})
        same(asked, capsys)
    silent = str(artifacts / "unconditional/model")
    same(Generate((), silent, tmp_path / "silent/out", images=2, sampling=Choice(steps=2)), capsys)


def test_images_of_a_transformer_are_drawn_again(transformer, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tiny.images(1)[0]).save("a.png")
    how = Choice(guidance=2.0, batch_size=4)
    asked = Generate(("a circle", *PROMPTS, ""), str(transformer), tmp_path / "out", images=2,
                     candidates=3, top=TopOf(Path("a.png")), sampling=how)  # fmt: skip
    same(asked, capsys)


def test_again_is_the_same_to_the_last_bit(artifacts, transformer):
    """Pixels have eight bits, which would hide a little."""
    wanted = [Wanted(prompt, seed) for prompt in (*PROMPTS, "a") for seed in (0, 1)]
    for artist in (Diffuser(load(artifacts / "generator/model"), Sampling(steps=3)),
                   Continuer(load(transformer), tiny.TokenSampling(batch_size=4))):  # fmt: skip
        for drawn in artist.draw(wanted, lambda images: None, 0):
            image = again(artist, wanted[drawn.place], drawn.batch)
            assert torch.equal(image, drawn.image), (type(artist).__name__, drawn.place)


def test_a_png_says_nothing_of_the_machine(artifacts, tmp_path, monkeypatch):
    picture(tiny.images(1)[0]).save(tmp_path / "a.png")
    folder = artifacts / "generator/model"
    out = generate(Generate(PROMPTS[:1], str(folder), tmp_path / "out", sampling=FEW,
                            image=ImageOf(tmp_path / "a.png")))  # fmt: skip
    (file,) = pngs(out)
    with Image.open(file) as image:
        text = image.info["calotype"]
    said = json.loads(text)
    assert str(tmp_path) not in text and str(artifacts) not in text
    assert said["model"]["folder"] == "generator/model" and len(said["model"]["fingerprint"]) == 16
    assert (said["prompt"], said["seed"], said["sampling"]["steps"]) == (PROMPTS[0], 0, 3)
    assert said["batch"] == {"size": 1, "place": 0, "length": 0}
    assert {"torch", "diffusers", "device"} <= said["by"].keys()
    monkeypatch.chdir(artifacts)
    assert from_here(folder) == "generator/model" == from_here("generator/model")


def test_what_is_not_as_it_was_is_said(artifacts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(artifacts / "generator/model", "runs/x/model")
    picture(tiny.images(1)[0]).save("a.png")
    asked = Generate(PROMPTS[:1], "runs/x/model", Path("out"), sampling=FEW,
                     image=ImageOf(Path("a.png")))  # fmt: skip
    (file,) = pngs(generate(asked))
    like = Generate((), out=Path("again"), like=file)
    picture(tiny.images(2)[1]).save("a.png")
    with pytest.raises(
        ValueError, match=r"drawn from a\.png, and a\.png is another one now: put it"
    ):
        generate(like)
    Path("a.png").unlink()
    with pytest.raises(ValueError, match=r"drawn from a\.png, and it is not here: put it into out"):
        generate(like)
    picture(tiny.images(1)[0]).save(file.with_name("a.png"))
    assert len(pngs(generate(like))) == 1
    Path("runs/x/model").rename("elsewhere")
    with pytest.raises(ValueError, match="in runs/x/model, which is not here: say with --pipeline"):
        generate(like)
    other = str(artifacts / "unconditional/model")
    with pytest.raises(ValueError, match=r"and the pipeline in .*unconditional/model is .* now"):
        generate(Generate((), other, Path("again"), like=file))
    assert len(pngs(generate(Generate((), "elsewhere", Path("again"), like=file)))) == 2
    likeness, batch, _ = read(file)
    assert likeness.wanted == Wanted(PROMPTS[0], 0) and batch.size == 1
