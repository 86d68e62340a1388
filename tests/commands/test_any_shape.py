"""Pictures of mixed shapes, from a folder to a tokenizer and what is measured of it."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.evaluate import Evaluate, evaluate
from calotype.commands.reconstruct import Reconstruct, reconstruct
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Buckets, Folder, LatentCache, Loader, Transform
from calotype.diffusion import UNet
from calotype.pages.sheet import enlarged
from calotype.pipelines import load, size_of
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.encoder import Encoder
from calotype.tokenizers.terms import LPIPS
from calotype.training import Run

CROP = Buckets(32, 4)
TRANSFORM = Transform(CROP)
pytestmark = pytest.mark.filterwarnings("ignore:.*latent_statistics")  # of so few pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.mixed(tmp_path_factory.mktemp("any") / "photos")


def recipe(photos: Path, root: Path, **changes) -> TokenizerRecipe:
    base = tiny.tokenizer_recipe(
        root, data=Folder(photos), transform=TRANSFORM, examples=6, validation=Folder(photos),
        validate=8, measure=24, adversary=tiny.adversary(),
    )  # fmt: skip
    settings = replace(base.run, steps=6, evaluate_every=6, sample_every=6, save_every=3)
    return replace(base, **{"run": settings, **changes})


def logged(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]


def weights(run: Run, name: str = "model-0") -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / f"step-{run.steps}/{name}.safetensors")


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenizerRecipe:
    made = recipe(photos, tmp_path_factory.mktemp("any-shape"))
    train_tokenizer(made)
    return made


def test_a_tokenizer_of_any_shape_is_stock_and_of_the_squares_size(
    trained: TokenizerRecipe,
) -> None:
    tokenizer = ImageTokenizer.load(trained.run.model)
    assert tokenizer.autoencoder.config["sample_size"] == 32
    for shape in TRANSFORM.shapes:
        assert tokenizer.reconstruct(torch.zeros(1, 3, shape.height, shape.width)).shape[2:] == (
            shape.height, shape.width)  # fmt: skip


def test_its_previews_show_every_shape(trained: TokenizerRecipe) -> None:
    with Image.open(trained.run.out / "samples/0000006.png") as shown:
        levels = np.array(shown)
    side = max(map(max, TRANSFORM.shapes))
    # Six pairs, eight images a row: each in a square of the longest side seen, with white around.
    assert levels.shape[1] <= 8 * (side + 2) + 2 and (levels == 255).all(2).mean() > 0.05
    figures = logged(trained.run)
    assert any("validation/psnr_db" in line for line in figures)


def test_micro_batches_make_the_same_steps(trained: TokenizerRecipe, tmp_path: Path) -> None:
    run = replace(trained.run, out=tmp_path / "halves", micro_batch=2)
    train_tokenizer(replace(trained, run=run))
    for name in ("model-0", "model-1"):
        halves = weights(run, name)
        for tensor, whole in weights(trained.run, name).items():
            torch.testing.assert_close(halves[tensor], whole, rtol=1e-3, atol=1e-4)


def test_resumed_in_the_middle_it_is_the_same(trained: TokenizerRecipe, tmp_path: Path) -> None:
    first = replace(trained.run, out=tmp_path / "parts", steps=3)
    for run in (first, replace(first, steps=6, resume=True)):
        train_tokenizer(replace(trained, run=run))
    for name, whole in weights(trained.run).items():
        assert torch.equal(weights(replace(first, steps=6))[name], whole), name


def test_it_is_measured_on_whole_pictures(
    trained: TokenizerRecipe, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(network: object) -> None:
        raise ValueError("a test needs no distances")

    monkeypatch.setattr("calotype.commands.judging.features", none)
    found = {}
    for whole in (True, False):
        options = Evaluate(artifact=str(trained.run.model), data=Folder(photos), whole=whole,
                           lpips=(), out=tmp_path / f"{whole}.json")  # fmt: skip
        found[whole] = json.loads(evaluate(options).read_text())
    protocols = [found[whole]["protocol"] for whole in (True, False)]
    assert [p["images"] for p in protocols] == [24, 24] and {p["size"] for p in protocols} == {32}
    assert protocols[0]["digest"] != protocols[1]["digest"]


def test_it_is_reconstructed_in_the_shapes_that_it_was_trained_on(
    trained: TokenizerRecipe, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    alone = shutil.copytree(trained.run.model, tmp_path / "alone")  # nothing tells of its run
    for model, whole in ((trained.run.out, False), (alone, True), (alone, False)):
        out = tmp_path / "pairs.png"
        reconstruct(Reconstruct(str(model), Folder(photos), whole=whole, count=24, out=out))
        of_shapes = whole or model != alone
        assert ("in 7 buckets of about 32x32" in capsys.readouterr().out) == of_shapes
        side = 256 if not of_shapes else enlarged(max(map(max, CROP.shapes)))
        with Image.open(out) as shown:
            first = np.asarray(shown)[8 : 8 + side, 8 : 8 + side]
            assert shown.width == 8 * (side + 8) + 8
        # A standing picture has white beside it, and none of it is cropped away above.
        assert (first[:, :8] == 255).all() == of_shapes and (first[side // 2] < 255).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": Transform(Buckets(33, 3, ratio=1.5))},
         "transform.crop.step is 3, and the tokenizer's factor 2"),
        ({"transform": Transform(Buckets(32, 2, lost=0.08)),
          "run": Run(Path("any"), compile=True)},
         "run.compile: images come in 11 shapes, and torch compiles for 8"),
        ({"perceptual": LPIPS(net="alex")}, "needs images of 31 pixels"),
        ({"data": tiny.SCENES, "validation": None}, "Scenes pictures are squares"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_training(
    changes: dict, message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train_tokenizer(recipe(photos, tmp_path, **changes))
    assert not (tmp_path / "tokenizer").exists()


@pytest.fixture(scope="module")
def cached(trained: TokenizerRecipe, photos: Path) -> CacheRecipe:
    made = tiny.cache_recipe(
        trained.run.out.parent, data=Folder(photos), transform=TRANSFORM, text=None, shard_size=10,
    )  # fmt: skip
    cache(made)
    return made


def generator(cached: CacheRecipe, root: Path, **changes) -> GeneratorRecipe:
    base = tiny.generator_recipe(root, tokenizer=cached.tokenizer, cache=cached.out, text=None,
                                 held_out=6, optimizer=tiny.adam(1e-3))  # fmt: skip
    unet, run = replace(base.unet, pooled_text=False), replace(base.run, steps=6, evaluate_every=6)
    return replace(base, **{"unet": unet, "run": run, **changes})


def test_a_cache_has_every_picture_once_in_its_own_shape(cached: CacheRecipe, photos: Path) -> None:
    latents = LatentCache(cached.out)
    counts = Counter(tuple(latents[i]["packed"].shape[-2:]) for i in range(len(latents)))
    wanted = Counter(
        (shape.height // 2, shape.width // 2)
        for shape in (CROP.nearest(*tiny.MIXED[i % len(tiny.MIXED)]) for i in range(24))
    )
    assert counts == wanted and len(counts) > 2 and set(latents.grids) == set(counts)
    assert latents.index.size == 32


def test_a_batch_of_rows_has_one_shape(cached: CacheRecipe) -> None:
    rows, held_out = LatentCache(cached.out).split(6)
    batches = Loader(rows, 4, seed=1).batches()
    shapes = {tuple(next(batches)["packed"].shape) for _ in range(30)}
    assert len(shapes) > 2 and all(shape[0] == 4 for shape in shapes)
    found = np.concatenate(held_out.buckets() or [])
    assert sorted(found.tolist()) == list(range(6))


def test_made_again_a_cache_encodes_nothing(
    cached: CacheRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*arguments: object) -> None:
        raise AssertionError("nothing is to be encoded")

    before = {file.name: file.read_bytes() for file in cached.out.glob("*.safetensors")}
    monkeypatch.setattr(Encoder, "rows", encode)
    cache(cached)
    assert before == {file.name: file.read_bytes() for file in cached.out.glob("*.safetensors")}


def test_a_broken_picture_is_left_out_of_its_shape(
    trained: TokenizerRecipe, photos: Path, tmp_path: Path
) -> None:
    copies = shutil.copytree(photos, tmp_path / "photos")
    (copies / "03.png").write_bytes(b"nothing")  # no header
    whole = (copies / "07.png").read_bytes()
    (copies / "07.png").write_bytes(whole[: len(whole) // 2])  # no pixels
    made = tiny.cache_recipe(tmp_path, tokenizer=str(trained.run.model), data=Folder(copies),
                             transform=TRANSFORM, text=None)  # fmt: skip
    with pytest.warns(UserWarning) as said:
        cache(made)
    words = [str(each.message) for each in said]
    assert any("2 pictures cannot be read" in each for each in words), words
    assert len(LatentCache(made.out)) == 22


def test_diffusion_in_latents_of_several_shapes(cached: CacheRecipe, tmp_path: Path) -> None:
    recipe = generator(cached, tmp_path)
    model = train_generator(recipe)
    pipeline = load(model)
    assert size_of(pipeline) == 32  # the square's
    figures = logged(recipe.run)
    assert any("validation/loss" in line for line in figures)
    halves = replace(recipe, run=replace(recipe.run, out=tmp_path / "halves",
                                         micro_batch=2))  # fmt: skip
    train_generator(halves)
    for name, whole in weights(recipe.run).items():
        torch.testing.assert_close(weights(halves.run)[name], whole, rtol=1e-3, atol=1e-4)


def test_latents_that_cannot_be_halved_are_refused(cached: CacheRecipe, tmp_path: Path) -> None:
    deep = UNet((8, 8, 16, 16), (False, False, True, True), layers=1, head_width=4, groups=4)
    with pytest.raises(ValueError, match=r"cannot be halved 3 times.*buckets of a larger step"):
        train_generator(generator(cached, tmp_path, unet=deep))
