"""When a tokenizer with codes has been trained: their use is counted, shown, and complained of."""

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from PIL import Image

import tiny
from calotype.commands.export import Export
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Loader, Scenes, once
from calotype.data.tabular.tables import Parquet
from calotype.evaluation.codebook import codebook_health, draw_histogram
from calotype.recipes.tokenizer import NewTokenizer, PretrainedDecoder, TokenizerRecipe
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import FSQ, LFQ, RVQ, VQ, Gumbel
from calotype.tokenizers.bottlenecks.codebook import Codebook, KMeans, Normal, Restart
from calotype.tokenizers.bottlenecks.discrete import perplexity
from calotype.tokenizers.terms import L2, LogitLaplace
from calotype.training.schedules import Cosine

SMALL = Codebook(8, 2, init=KMeans(2), restart=None)
UNSEEN = Scenes(size=tiny.SIZE, split="held-out", count=21)


def recipe(tmp_path, bottleneck, **changes) -> TokenizerRecipe:
    model = NewTokenizer(tiny.BACKBONE, bottleneck)
    return replace(tiny.tokenizer_recipe(tmp_path, model=model), **changes)


def trained(tmp_path, bottleneck, **changes) -> tuple[ImageTokenizer, dict]:
    folder = train_tokenizer(recipe(tmp_path, bottleneck, **changes))
    return ImageTokenizer.load(folder), json.loads((folder / "latent_statistics.json").read_text())


def test_use_is_counted_over_every_validation_picture(tmp_path):
    """Which the last, short batch belongs to."""
    made, report = trained(tmp_path, VQ(SMALL), validation=UNSEEN)
    ids = torch.cat([made.pack(batch["image"]) for batch in once(UNSEEN.build(), 4)])
    counts = torch.bincount(ids.flatten().long(), minlength=8).double()
    assert report["sites"] == ids.numel() == 21 * 64
    assert report["codes_used"] == (counts > 0).double().mean().item()
    assert report["perplexity"] == pytest.approx(perplexity(counts).item())


def test_codes_are_one_number_away_from_unit_deviation(tmp_path):
    """And not one for each channel: the nearest code stays the nearest."""
    _, report = trained(tmp_path, VQ(SMALL))
    assert report["breach"] is None and report["reconstruction_moved"] < 1e-4
    mean_square = torch.tensor(report["latent_std"]).square().mean()
    assert mean_square.item() == pytest.approx(1, abs=0.02)
    assert report["sites"] == 64 * 64, "without validation, of as many training images as measured"


def test_a_histogram_shows_frequencies_the_most_frequent_first(tmp_path):
    with pytest.warns(UserWarning, match="no stock class"):
        trained(tmp_path, RVQ(2, SMALL))
    shown = Image.open(tmp_path / "tokenizer/samples/codebook.png")
    # Heights of the bars of each book's strip.
    rows = torch.tensor(list(shown.convert("L").getdata())).view(shown.height, shown.width) < 200
    for strip in rows.chunk(2):
        heights = strip.sum(0)
        assert (heights[:-1] >= heights[1:]).all() and heights[0] > 100


def test_bars_of_codes_never_chosen_are_left_white(tmp_path):
    made = tiny.tokenizer(0, VQ(Codebook(64, 2, init=Normal(100.0), restart=None)))
    health = codebook_health(made, [{"image": tiny.images(4)}])
    draw_histogram(health, tmp_path / "codes.png")
    shown = Image.open(tmp_path / "codes.png")
    dark = torch.tensor(list(shown.convert("L").getdata())).view(shown.height, shown.width) < 200
    share = dark.any(0).float().mean().item()
    assert health.use < 0.5 and share == pytest.approx(health.use, abs=1 / 64)


COLLAPSED = Codebook(64, 2, init=Normal(1.0), restart=None)


@pytest.mark.parametrize(
    ("codebook", "mend"),
    [
        (COLLAPSED, "choose codebook.restart:restart"),
        (replace(COLLAPSED, restart=Restart(every=1000)), "choose codebook.init:k-means"),
    ],
)
def test_disuse_is_said_with_its_mend(tmp_path, codebook, mend):
    with pytest.warns(UserWarning, match=rf"\d+% of 64 codes are in use over 1344 sites .*{mend}"):
        trained(tmp_path, VQ(codebook), validation=UNSEEN)


def test_too_few_sites_to_judge_by_are_said(tmp_path):
    few = replace(UNSEEN, count=1)
    with pytest.warns(
        UserWarning,
        match="over 64 sites .*count on more, by --run.resume with [^ ]* --validation.path DIR$",
    ):
        trained(tmp_path, LFQ(bits=9), validation=few)


def test_a_used_codebook_is_not_complained_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, report = trained(tmp_path, VQ(SMALL), validation=UNSEEN)
    assert report["codes_used"] >= 0.5


@pytest.mark.parametrize("bottleneck", [FSQ((4, 4)), RVQ(2, SMALL), LFQ(bits=15)])
def test_what_has_no_stock_class_says_so_before_it_trains(tmp_path, bottleneck):
    with (
        patch("calotype.commands.train_tokenizer.fit", side_effect=ZeroDivisionError),
        pytest.warns(UserWarning, match=r"no stock class holds what .*model will load by calotype"),
        pytest.raises(ZeroDivisionError),
    ):
        train_tokenizer(recipe(tmp_path, bottleneck))


@pytest.mark.parametrize(
    ("bottleneck", "validation", "error"),
    [
        (VQ(SMALL), replace(UNSEEN, size=32), "32 pixels, and data of 16"),
        (VQ(SMALL), Parquet("nowhere.parquet"), "validation: Parquet pictures come in any size"),
    ],
)
def test_validation_that_cannot_be_is_refused_before_any_work(
    tmp_path, bottleneck, validation, error
):
    with (
        patch("calotype.commands.train_tokenizer.fit", side_effect=ZeroDivisionError),
        pytest.raises((ValueError, FileNotFoundError), match=error),
    ):
        train_tokenizer(recipe(tmp_path, bottleneck, validation=validation))
    assert not (tmp_path / "tokenizer").exists()


@pytest.mark.parametrize("world", [1, 3, 30])
def test_ranks_share_the_validation_pictures(tmp_path, world):
    """Each picture is counted once, by one of them; some of many ranks have none."""
    data = UNSEEN.build()
    run = tiny.run(tmp_path, batch_size=30, micro_batch=4)
    export = Export(run, Loader(data, 30, seed=0), 21, 8, True, data)
    seen = []
    for rank in range(world):
        state = SimpleNamespace(process_index=rank, num_processes=world, is_main_process=False)
        with patch("calotype.commands.export.processes", lambda state=state: state):
            seen += [key for batch in export.validation_batches() for key in batch["key"]]
    assert len(seen) == len(set(seen)) == 21


def test_a_finetuned_decoder_keeps_its_codes_and_logs_their_use(tmp_path):
    stock, _ = trained(tmp_path / "first", VQ(SMALL))
    path = str(tmp_path / "first/tokenizer/model")
    tuned, _ = trained(tmp_path, VQ(SMALL), model=PretrainedDecoder(path), pixel=L2())
    assert torch.equal(tuned.pack(tiny.images(8)), stock.pack(tiny.images(8)))
    assert fingerprint(tuned) == fingerprint(stock)
    assert not torch.equal(tuned.last_layer.weight, stock.last_layer.weight)
    lines = (tmp_path / "tokenizer/metrics.jsonl").read_text().splitlines()
    used = [json.loads(line)["perplexity"] for line in lines]
    assert used[-1] < used[0], "they begin as if used alike"


def test_bug_finetuning_moved_codes_of_what_has_no_stock_class(tmp_path):
    tiny.tokenizer(0, RVQ(2, SMALL)).save(tmp_path / "model")
    model = PretrainedDecoder(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="no stock class, and its codes would move"):
        train_tokenizer(tiny.tokenizer_recipe(tmp_path, model=model, pixel=L2()))


@pytest.mark.parametrize("steps", [3, 4])
def test_a_temperature_that_does_not_reach_its_end_is_said(tmp_path, steps):
    """Tiny runs have three steps."""
    bottleneck = Gumbel(8, 2, temperature=Cosine(1.0, 1 / 16, steps))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trained(tmp_path, bottleneck, pixel=LogitLaplace())
    assert any("it is still" in str(each.message) for each in said) == (steps == 4)
