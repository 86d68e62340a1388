"""Transformers of images of several shapes: each shape has a begin-of-image, and is drawn stock."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer

import tiny
from calotype.autoregressive import (
    Annealed,
    Layout,
    NextToken,
    Raster,
    RowPeriodic,
    TokenSampling,
    Transformer,
    log_likelihood,
)
from calotype.commands.cache_latents import cache
from calotype.commands.evaluate import Artifact
from calotype.commands.generate import Generate, TopOf, generate
from calotype.commands.score import Score, score_images
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Buckets, Folder, LatentCache, Loader, Transform
from calotype.pipelines import Choice, TokenPipeline, draw, load, score
from calotype.recipes.cache import CacheRecipe
from calotype.training import AdamW

TRANSFORM = Transform(Buckets(32, 4))
GREEDY = TokenSampling(guidance=2.0, temperature=0.0)
PROMPTS = ["a red circle", "a blue square"]
SEVERAL = Layout(20, 16, 1, 3, 3, grids=((3, 3), (2, 4), (4, 2)))
STRANGER = """
import sys
sys.modules["calotype"] = None
import json
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from diffusers import VQModel
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_grad_enabled(False)
folder, prompts, shapes = sys.argv[1], *map(json.loads, sys.argv[2:])
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
vq = VQModel.from_pretrained(folder, subfolder="vqvae")
found = {}
for name, height, width in shapes:
    said = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
    if name:
        said.input_ids[:, -1] = tokenizer.convert_tokens_to_ids(name)
    more = {"max_new_tokens": height * width} if name else {}
    tokens = model.generate(**said, do_sample=False, **more)[:, said.input_ids.shape[1] :]
    codes = tokens - (model.config.vocab_size - vq.config.num_vq_embeddings)
    z = vq.quantize.get_codebook_entry(codes.flatten(), (-1, height, width, vq.config.vq_embed_dim))
    found[f"codes {height} {width}"] = codes.contiguous()
    found[f"image {height} {width}"] = vq.decode(z, force_not_quantize=True).sample
save_file(found, folder + "/stranger.safetensors")
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.mixed(tmp_path_factory.mktemp("shapes") / "photos")
    for i, file in enumerate(sorted(folder.glob("*.png"))):
        file.with_suffix(".txt").write_text(tiny.CAPTIONS[i % 4])
    return folder


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CacheRecipe]:
    """A pipeline's folder, and the cache that it was trained in."""
    tokenizer, cached, recipe = tiny.token_recipes(tmp_path_factory.mktemp("shapes"))
    mixed = {"data": Folder(photos), "transform": TRANSFORM}
    train_tokenizer(replace(tokenizer, **mixed, measure=24))
    cached = replace(cached, **mixed)
    cache(cached)
    recipe = replace(recipe, held_out=6, order=Annealed(0, 3))
    return train_generator(recipe), cached


@pytest.fixture(scope="module")
def pipeline(made: tuple[Path, CacheRecipe]) -> TokenPipeline:
    found = load(made[0])
    assert isinstance(found, TokenPipeline)
    return found


def test_the_shapes_are_those_of_the_cache_and_the_square_is_usual(
    made: tuple[Path, CacheRecipe], pipeline: TokenPipeline
) -> None:
    grids = LatentCache(made[1].out).grids
    assert {*pipeline.layout.shapes} == {*grids} and len(grids) > 3
    assert pipeline.layout.shapes[0] == (16, 16) and pipeline.size == 32
    assert Artifact(str(made[0])).size(None) == 32
    begins = [pipeline.layout.of(*grid).begin for grid in pipeline.layout.shapes]
    assert begins == [*range(pipeline.layout.text, pipeline.layout.first)]
    names = AutoTokenizer.from_pretrained(made[0]).convert_ids_to_tokens(begins)
    widths = [f"<|image_{shape}|>" for shape in pipeline.shapes[1:]]
    assert names == ["<|image|>", *widths]


def test_stock_classes_draw_every_shape_without_calotype(
    made: tuple[Path, CacheRecipe], pipeline: TokenPipeline
) -> None:
    tiny_sharp(pipeline)
    pipeline.transformer.save_pretrained(made[0])
    usual, *others = zip(pipeline.shapes, pipeline.layout.shapes, strict=True)
    shapes = [("", *usual[1]), *((f"<|image_{shape}|>", *grid) for shape, grid in others)]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(made[0]), json.dumps(PROMPTS), json.dumps(shapes)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(made[0] / "stranger.safetensors")
    for shape, (height, width) in (usual, *others):
        ours = pipeline.shaped(shape.height, shape.width)
        (codes,) = draw(ours, PROMPTS, [0, 1], GREEDY)
        assert torch.equal(found[f"codes {height} {width}"], codes), shape
        images = found[f"image {height} {width}"]
        assert images.shape[2:] == (shape.height, shape.width)
        assert torch.equal(images, ours.decode(codes))
    told = (made[0] / "README.md").read_text()
    last = pipeline.shapes[-1]
    length = pipeline.layout.shapes[-1][0] * pipeline.layout.shapes[-1][1]
    assert f"| {last} | {pipeline.layout.first - 1} |" in told and f"| {length} |" in told


def tiny_sharp(pipeline: TokenPipeline) -> None:
    """After three steps all tokens are alike, and the likeliest is a matter of rounding."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in pipeline.transformer.parameters():
            if weight.ndim == 2:
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(2 * noise / weight.shape[1] ** 0.5)


@torch.no_grad()
@pytest.mark.parametrize("grid", SEVERAL.shapes)
def test_what_is_minimised_is_the_likelihood_behind_the_shape(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Transformer(32, 2, 2).build(SEVERAL, 5)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    objective = NextToken(model, SEVERAL, Raster(), AdamW(), drop=0.0, prompted=False)
    packed = torch.randint(16, (4, *grid))
    found = objective({"packed": packed, "key": [*range(4)]}, 0)["image"]
    none = torch.zeros(4, 0, dtype=torch.long)
    layout = SEVERAL.of(*grid)
    codes = layout.flatten(packed)
    expected = log_likelihood(model, layout, none, none.sum(1), codes)
    torch.testing.assert_close(found, -expected.mean())
    other = next(shape for shape in SEVERAL.shapes if shape != grid)
    behind = log_likelihood(model, SEVERAL.of(*other), none, none.sum(1), codes)
    assert (behind - expected).abs().max() > 1e-3, "the shape is told"


def test_every_length_of_rows_has_frequencies_that_turn_whole_in_it() -> None:
    rows = (3, 4, 2)
    found = RowPeriodic().parameters(64, 20, rows)["short_factor"]
    usual = torch.tensor([10_000.0 ** (-i / 32) for i in range(32)])
    turns = usual / torch.tensor(found) / (2 * torch.pi)
    for row in rows:
        whole = (turns[16:] * row - (turns[16:] * row).round()).abs() < 1e-5
        assert whole.sum() >= 5, row
    assert RowPeriodic().parameters(64, 20, (4,)) == RowPeriodic().parameters(64, 20, [4])


def test_what_differs_by_shape_is_learnt_and_drawn_stock() -> None:
    """Each site's code is its column, in standing images counted from the other side."""
    torch.manual_seed(0)
    model = Transformer(32, 2, 2).build(SEVERAL, 0)
    objective = NextToken(model, SEVERAL, Raster(), AdamW(), drop=0.0, prompted=False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(90):
        height, width = SEVERAL.shapes[step % 3]
        loss = objective({"packed": pattern(height, width).expand(4, -1, -1), "key": [0] * 4}, step)
        optimizer.zero_grad()
        loss["image"].backward()
        optimizer.step()
    for grid in SEVERAL.shapes:
        layout = SEVERAL.of(*grid)
        begin = torch.tensor([[layout.begin]])
        tokens = model.generate(begin, do_sample=False, max_new_tokens=layout.length)[:, 1:]  # type: ignore[reportAttributeAccessIssue]
        assert torch.equal(layout.unflatten(tokens - layout.first)[0], pattern(*grid)), grid


def pattern(height: int, width: int) -> torch.Tensor:
    columns = torch.arange(width).expand(height, -1)
    return width - 1 - columns if height > width else columns


def test_commands_draw_continue_and_repeat_a_shape(
    made: tuple[Path, CacheRecipe], pipeline: TokenPipeline, photos: Path, tmp_path: Path
) -> None:
    lying = pipeline.shapes[-1] if pipeline.shapes[-1].ratio > 1 else pipeline.shapes[1]
    options = Generate(("a red circle",), str(made[0]), tmp_path / "drawn", width=lying.width,
                       height=lying.height, sampling=Choice(temperature=0.0))  # fmt: skip
    (file,) = generate(options).glob("0*.png")
    with Image.open(file) as drawn:
        assert drawn.size == (lying.width, lying.height)
        levels = list(drawn.getdata())
    (again,) = generate(
        Generate((), pipeline=str(made[0]), like=file, out=tmp_path / "again")
    ).glob("0*.png")
    with Image.open(again) as same:
        assert list(same.getdata()) == levels
    top = replace(options, top=TopOf(photos / "00.png"), out=tmp_path / "top")
    (file,) = generate(top).glob("0*.png")
    with Image.open(file) as continued:
        assert continued.size == (lying.width, lying.height)
        assert list(continued.getdata()) != levels
    with pytest.raises(ValueError, match=f"draws images of 32x32, .*{lying}.* pixels: choose one"):
        generate(replace(options, width=31))
    assert pipeline("a red circle", width=lying.width, height=lying.height).images[0].size == lying


def test_pictures_are_scored_in_their_own_shape(
    made: tuple[Path, CacheRecipe], pipeline: TokenPipeline, photos: Path, tmp_path: Path
) -> None:
    options = Score(str(made[0]), Folder(photos), batch_size=4, out=tmp_path / "s.jsonl")
    lines = [json.loads(line) for line in score_images(options).read_text().splitlines()]
    assert len({line["image"] for line in lines}) == 24
    shapes = Counter()
    for line in lines[::5]:
        with Image.open(line["image"]) as image:
            shape = pipeline.crop.nearest(*image.size)
            own = pipeline.shaped(shape.height, shape.width)
            example: Any = {"image": image.convert("RGB"), "caption": ""}
            sample = Transform(pipeline.crop)(example, np.random.default_rng(0))
        bits = score(own, own.codes(sample["image"][None]), [line["prompt"]])
        assert line["bits_per_token"] == pytest.approx(bits.item() / own.layout.length, abs=1e-4)
        shapes[shape] += 1
    assert len(shapes) > 1


def test_a_batch_of_the_cache_is_what_the_objective_takes(
    made: tuple[Path, CacheRecipe], pipeline: TokenPipeline
) -> None:
    rows, _ = LatentCache(made[1].out).split(0)
    objective = NextToken(pipeline.transformer, pipeline.layout, Annealed(1, 2), AdamW())
    seen = set()
    for _, batch in zip(range(12), Loader(rows, 4, seed=0).batches(), strict=False):
        losses = objective(batch, 0)
        assert all(loss.isfinite() for loss in losses.values())
        seen.add(tuple(batch["packed"].shape[1:]))
    assert len(seen) > 2
