"""Pictures of mixed shapes, from a folder to a tokenizer and what is measured of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny
from calotype.commands.evaluate import Evaluate, evaluate
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Buckets, Folder, Transform
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms import LPIPS
from calotype.training import Run

TRANSFORM = Transform(Buckets(32, 4))
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
    return replace(base, run=settings, **changes)


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
    figures = [json.loads(line) for line in (trained.run.out / "metrics.jsonl").open()]
    assert any("validation/psnr_db" in line for line in figures)


def test_micro_batches_make_the_same_steps(trained: TokenizerRecipe, tmp_path: Path) -> None:
    run = replace(trained.run, out=tmp_path / "halves", batch_size=2, accumulate=2)
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
    trained: TokenizerRecipe, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = {}
    for whole in (True, False):
        options = Evaluate(
            artifact=str(trained.run.model), data=Folder(photos), whole=whole, lpips=(),
            features="efficientnet-lite0", out=tmp_path / f"{whole}.json", precision="fp32",
        )  # fmt: skip
        found[whole] = json.loads(evaluate(options).read_text())
    protocols = [found[whole]["protocol"] for whole in (True, False)]
    assert [p["images"] for p in protocols] == [24, 24] and {p["size"] for p in protocols} == {32}
    assert protocols[0]["digest"] != protocols[1]["digest"]
    assert "pictures of 32 pixels" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": Transform(Buckets(33, 3, ratio=1.5))},
         "transform.crop.step is 3, and the tokenizer's factor 2"),
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
