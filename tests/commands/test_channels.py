"""Grey pictures, and pictures with alpha, from files to what is drawn."""

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.distil_decoder import distil_decoder
from calotype.commands.evaluate import Evaluate, evaluate
from calotype.commands.generate import Generate, generate
from calotype.commands.pictures import ImageOf
from calotype.commands.reconstruct import Reconstruct, reconstruct
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Folder, Transform
from calotype.pipelines import Choice, load
from calotype.recipes.distil import DistilRecipe
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers.distillation import NewTiny
from calotype.training.images import CHANNELS, Mode

MODES: list[Mode] = ["L", "RGBA"]
SIDE = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Discs on nothing, of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    rows, columns = np.indices((SIDE, SIDE)) - SIDE / 2
    for i in range(12):
        disc = np.clip((5 + i / 2) - np.hypot(rows, columns), 0, 1)
        pixels = np.empty((SIDE, SIDE, 4), np.uint8)
        pixels[..., :3], pixels[..., 3] = (20 * i, 200, 255 - 20 * i), 255 * disc
        file = folder / ("odd", "even")[i % 2] / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    return folder


@pytest.fixture(scope="module", params=MODES)
def way(request, photos, tmp_path_factory) -> tuple[Mode, Path]:
    """A mode, and a folder with a tokenizer of it, a cache and a generator."""
    root, data = tmp_path_factory.mktemp("way"), Folder(photos)
    transform = Transform(CenterCrop(tiny.SIZE), mode=request.param)
    model = NewTokenizer(tiny.BACKBONE, replace(tiny.STILL, channels=4))
    train_tokenizer(tiny.tokenizer_recipe(
        root, data=data, transform=transform, model=model, measure=48, validation=data,
        adversary=tiny.adversary(),
        run=tiny.run(root / "tokenizer", sample_every=3, evaluate_every=3),
    ))  # fmt: skip
    cache(tiny.cache_recipe(root, data=data, transform=transform))
    train_generator(tiny.generator_recipe(root))
    return request.param, root


def test_training_shows_and_measures_them(way):
    mode, root = way
    lines = (root / "tokenizer/metrics.jsonl").read_text().splitlines()
    found = {name for line in lines for name in json.loads(line)}
    assert "validation/psnr_db" in found
    assert ("validation/psnr_alpha_db" in found) == (mode == "RGBA")
    with Image.open(root / "tokenizer/samples/0000003.png") as grid:
        tile = np.asarray(grid.convert("RGB"))[2 : 2 + tiny.SIZE, 2 : 2 + tiny.SIZE].astype(int)
    corner = tile[:4, :4].reshape(-1, 3)
    assert (np.ptp(corner, 1) == 0).all() and corner.max() == 255
    assert (len(np.unique(corner)) == 2) == (mode == "RGBA"), "a checkerboard, or white"


def test_they_are_reconstructed_and_measured(way, photos, tmp_path, capsys):
    mode, root = way
    options = Reconstruct(str(root / "tokenizer"), Folder(photos), count=4, device="cpu")
    reconstruct(replace(options, out=tmp_path / "pairs.png"))
    assert ("dB of alpha" in capsys.readouterr().out) == (mode == "RGBA")
    reconstruct(replace(options, worst=2, out=tmp_path / "worst.html"))
    assert (tmp_path / "worst.html").read_text().count("data:image/png") == 6
    file = evaluate(Evaluate(
        artifact=str(root / "tokenizer"), data=Folder(photos), features="efficientnet-lite0",
        lpips=(), out=tmp_path / "e.json", device="cpu",
    ))  # fmt: skip
    figures = json.loads(file.read_text())["figures"]
    assert figures["frechet"] > 0 and ("psnr_alpha_db" in figures) == (mode == "RGBA")


def test_what_is_drawn_has_their_mode_here_and_in_stock_pipelines(way, photos, tmp_path):
    mode, root = way
    options = Generate(("odd",), pipeline=str(root / "generator"), out=tmp_path / "drawn", images=2,
                       sampling=Choice(steps=2), device="cpu", grid=True)  # fmt: skip
    files = sorted(generate(options).glob("00*.png"))
    assert len(files) == 2
    with Image.open(files[0]) as drawn:
        assert drawn.mode == mode and drawn.size == (tiny.SIZE, tiny.SIZE)
    for name in ("sheet", "grid"):
        (seen,) = tmp_path.glob(f"drawn/{name}*.png")
        with Image.open(seen) as one:
            assert one.mode == "RGB"
    stock = diffusers.StableDiffusionPipeline.from_pretrained(root / "generator/model")
    stock.set_progress_bar_config(disable=True)
    chance = torch.Generator().manual_seed(0)
    (image,) = stock("odd", num_inference_steps=2, generator=chance).images
    assert image.mode == mode
    assert load(root / "generator").vae.config["in_channels"] == CHANNELS[mode]  # pyright: ignore
    over = replace(options, image=ImageOf(photos / "odd/0.png", 0.8), out=tmp_path / "over")
    if mode == "RGBA":
        with pytest.raises(ValueError, match="--image: stock pipelines take a picture with alpha"):
            generate(over)
    else:
        generate(over)


def test_the_cards_lines_run(way, photos, monkeypatch, tmp_path):
    mode, root = way
    for folder in ("tokenizer/model", "generator/model"):
        monkeypatch.chdir(root / folder)
        text = Path("README.md").read_text()
        assert ("alpha" in text) == (mode == "RGBA")
        Image.open(photos / "even/1.png").save("picture.png")
        exec(text.split("```python")[1].split("```")[0], {})
    with Image.open(root / "tokenizer/model/rebuilt.png") as rebuilt:
        assert rebuilt.mode == mode


def test_wrong_pictures_are_one_line_before_any_work(way, photos, tmp_path):
    mode, root = way
    model = str(root / "tokenizer/model")
    plain = Transform(CenterCrop(tiny.SIZE))
    distilled = DistilRecipe(
        model, Folder(photos), plain, NewTiny(8, 1), run=tiny.run(tmp_path / "tiny")
    )
    cached = tiny.cache_recipe(root, data=Folder(photos), transform=plain, out=tmp_path / "latents")
    for work in (lambda: cache(cached), lambda: distil_decoder(distilled)):
        with pytest.raises(
            ValueError, match=rf"mode is RGB, and .* takes {mode}: choose .* {mode}"
        ):
            work()
    assert not list(tmp_path.iterdir())


def test_a_small_decoder_takes_the_tokenizers_place(way, photos, tmp_path):
    mode, root = way
    transform = Transform(CenterCrop(tiny.SIZE), mode=mode)
    small = distil_decoder(DistilRecipe(
        str(root / "tokenizer/model"), Folder(photos), transform, NewTiny(8, 1), measure=4,
        examples=2, run=tiny.run(tmp_path / "tiny"),
    ))  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(root / "generator/model")
    pipeline.vae = diffusers.AutoencoderTiny.from_pretrained(small)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("odd", num_inference_steps=1).images[0].mode == mode


def test_a_transformer_draws_them_and_goes_on_with_one(photos, tmp_path):
    transform = Transform(CenterCrop(tiny.SIZE), mode="RGBA")
    tokenizer, cached, recipe = tiny.token_recipes(tmp_path, text=None)
    data = Folder(photos)
    train_tokenizer(replace(tokenizer, data=data, transform=transform))
    cache(replace(cached, data=data, transform=transform))
    pipeline = load(train_generator(recipe))
    with Image.open(photos / "odd/0.png") as top:
        (drawn,) = pipeline(top=top, part=0.5).images  # pyright: ignore
    assert drawn.mode == "RGBA"
