"""The latent cache: what was encoded, whole, once, in order, by the tokenizer it names."""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset, Subset
from transformers import CLIPTokenizer

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.cached_prompts import read_captions
from calotype.commands.train_generator import train_generator
from calotype.data import CenterCrop, Folder, LatentCache, Loader, Stream, Transform, Whole
from calotype.data.cache.index import LATENTS, PICTURES, PROMPTS, TEXT_TOKENIZER
from calotype.data.cache.provenance import Listing, Provenance
from calotype.data.cache.shards import write_shard
from calotype.data.prompts import tokenize
from calotype.data.reading.records import Reader, Record
from calotype.diffusion import LatentSource
from calotype.pipelines import picture
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.caching import cache_latents, finish, remaining, together
from calotype.tokenizers.encoder import Encoder, Scan
from calotype.training.description import describe
from calotype.training.noise import generators, normal

COUNT = 20
SCAN = Scan(None, count=COUNT, batch_size=4, shard_size=8)
DATA = tiny.SCENES.build()
IMAGES = DATA.batch(range(COUNT))["image"]


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    return tiny.tokenizer()


def encoder(tokenizer: ImageTokenizer, **changes) -> Encoder:
    return replace(Encoder(tokenizer, "f00d", tiny.SIZE, dtype=torch.float32), **changes)


def files(root: Path, holds: str = LATENTS) -> list[Path]:
    return sorted(root.glob(f"*.{holds}.safetensors"))


def cached(root: Path, encoder: Encoder, scan: Scan = SCAN, data: Dataset = DATA) -> LatentCache:
    with together(root):
        finish(encoder, root, cache_latents(encoder, data, scan, root), crops=scan.crops)
    return LatentCache(root)


def tokens(latents: LatentCache) -> torch.Tensor:
    return latents.batch(list(range(len(latents))), [0] * len(latents))["tokens"]


def rows(latents: LatentCache, key: int = 0) -> torch.Tensor:
    return latents.batch(list(range(len(latents))), [key] * len(latents))["packed"]


@torch.no_grad()
def test_rows_are_the_encoded_images(tokenizer, tmp_path):
    latents = cached(tmp_path, encoder(tokenizer))
    assert len(latents) == COUNT and latents.index.rows == (8, 8, 4)
    torch.testing.assert_close(rows(latents), tokenizer.pack(IMAGES), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents[19]["packed"], rows(latents)[19])
    half = cached(tmp_path / "half", encoder(tokenizer, dtype=torch.float16))
    torch.testing.assert_close(rows(half), rows(latents), atol=1e-3, rtol=1e-3)


def test_a_cache_is_told_from_others_by_its_rows(tokenizer, tmp_path):
    """Bug: of the same pictures, cropped in another way, it was by nothing."""
    whole = cached(tmp_path / "a", encoder(tokenizer))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert LatentCache(tmp_path / "b").identity() == whole.identity()
    last = files(tmp_path / "b")[-1]
    save_file({name: 2 * value for name, value in load_file(last).items()}, last)
    assert LatentCache(tmp_path / "b").identity() != whole.identity()


def test_captions_and_tokens_are_in_order(tokenizer, tmp_path):
    """Whichever shard they are in, and whatever a learnt vocabulary's sample was."""
    spec = encoder(tokenizer)
    with together(tmp_path):
        shards = cache_latents(spec, DATA, SCAN, tmp_path)
        prompts = read_captions(tiny.TEXT, tmp_path, shards, 100)
        index = finish(spec, tmp_path, shards, prompts)
    latents = LatentCache(tmp_path)
    captions = [str(DATA[i]["caption"]) for i in range(COUNT)]
    text = CLIPTokenizer.from_pretrained(tmp_path / TEXT_TOKENIZER)
    assert list(latents.captions) == captions and latents.captions[1::7] == captions[1::7]
    assert latents.index == index and index.tokens == tiny.TEXT.length
    assert index.text == describe(tiny.TEXT)
    batch = latents.batch([3, 19, 0], [0, 0, 0])
    expected = tokenize(text, [captions[i] for i in (3, 19, 0)])
    for name, column in expected._asdict().items():
        assert torch.equal(batch[name], column) and batch[name].dtype == torch.int64
        assert torch.equal(latents[19][name], column[1])


def test_only_what_is_missing_is_encoded_again(tokenizer, tmp_path):
    spec, encoded = encoder(tokenizer), []
    cached(tmp_path, spec)
    whole = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "latents.json").unlink()
    for holds in (LATENTS, PICTURES):
        files(tmp_path, holds)[1].unlink()
    assert remaining(DATA, SCAN, tmp_path) == 8
    with together(tmp_path):
        shards = cache_latents(spec, DATA, SCAN, tmp_path, encoded.append)
        finish(spec, tmp_path, shards)
    assert encoded == [4, 4]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == whole


def test_a_shard_of_which_rows_are_missing_is_no_part_of_a_cache(tokenizer, tmp_path):
    """Bug: a cache of fewer rows than pictures was called finished."""
    spec = encoder(tokenizer)
    shards = cache_latents(spec, DATA, SCAN, tmp_path)
    save_file({"packed": load_file(files(tmp_path)[1])["packed"][:5]}, files(tmp_path)[1])
    with (
        together(tmp_path),
        pytest.raises(ValueError, match=r"000000001\S+ has 5 rows and not 8: delete it and run"),
    ):
        finish(spec, tmp_path, shards)
    assert not (tmp_path / "latents.json").exists()


def test_every_epoch_draws_afresh(tokenizer, tmp_path):
    latents = cached(tmp_path, encoder(tokenizer))
    source = LatentSource(tokenizer.bottleneck, 0.5)
    batches = Loader(latents, COUNT, seed=0, shuffle=False).batches()
    first, second = next(batches), next(batches)
    assert torch.equal(first["packed"], second["packed"])
    drawn = [source.draw(b["packed"], generators(b["key"])) for b in (first, second)]
    assert (drawn[0] != drawn[1]).all()
    again = source.draw(first["packed"], generators(first["key"]))
    assert torch.equal(again, drawn[0])
    unscaled = LatentSource(tokenizer.bottleneck, 1.0)
    assert torch.equal(drawn[0], 0.5 * unscaled.draw(first["packed"], generators(first["key"])))


@torch.no_grad()
def test_flips_are_stored_and_chosen_by_the_key(tokenizer, tmp_path):
    latents = cached(tmp_path, encoder(tokenizer, flipped=True))
    upright, mirrored = tokenizer.pack(IMAGES), tokenizer.pack(IMAGES.flip(-1))
    torch.testing.assert_close(rows(latents, 0), upright, atol=1e-5, rtol=0)
    torch.testing.assert_close(rows(latents, 1 << 40), mirrored, atol=1e-5, rtol=0)
    batch = next(Loader(latents, 400, seed=0, shuffle=False).batches())
    flipped = (batch["packed"] != rows(latents).repeat(20, 1, 1, 1)).flatten(1).any(1)
    assert 0.4 < flipped.float().mean() < 0.6


def test_workers_read_the_same_rows(tokenizer, tmp_path):
    latents = cached(tmp_path, encoder(tokenizer))
    assert len(rows(latents)) == COUNT  # maps are open
    here, there = (next(Loader(latents, 8, seed=1, workers=w).batches()) for w in (0, 1))
    assert torch.equal(here["packed"], there["packed"])
    assert here["key"] == there["key"]


class Some:
    """Passes over scenes that cannot be indexed."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> Iterator[Record]:
        for i in range(self.count):
            yield Record(DATA[i]["image"], str(i), str(DATA[i]["caption"]))  # type: ignore[arg-type]


def stream(count: int) -> Stream:
    return Stream(Whole(Some(count)), Reader("stop", "some"))


def test_a_stream_is_cached_as_what_it_streams(tokenizer, tmp_path):
    scan = replace(SCAN, count=18)
    one = cached(tmp_path / "indexed", encoder(tokenizer), scan)
    two = cached(tmp_path / "streamed", encoder(tokenizer), scan, stream(30))
    assert list(one.captions) == list(two.captions) and len(two) == 18
    torch.testing.assert_close(rows(one), rows(two))


@pytest.mark.parametrize("data", [Subset(DATA, []), stream(0)])
def test_an_empty_source_is_refused(data, tokenizer, tmp_path):
    with pytest.raises(
        ValueError, match=r"no images to encode: the data source is empty|some: no pictures in it"
    ):
        cached(tmp_path, encoder(tokenizer), data=data)


def test_an_unfinished_cache_is_refused(tokenizer, tmp_path):
    cache_latents(encoder(tokenizer), DATA, SCAN, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no finished cache in .*cache-latents"):
        LatentCache(tmp_path)


@pytest.mark.parametrize(
    "found", [{"tokenizer": "f00d", "images": 64, "latent_mean": [0.0]}, {"rows": 3}, [], None]
)
def test_another_files_index_is_no_caches(found, tmp_path):
    (tmp_path / "latents.json").write_text("{" if found is None else json.dumps(found))
    with pytest.raises(ValueError, match=r"latents\.json is not a cache's: .*cache-latents"):
        LatentCache(tmp_path)


def test_a_shard_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced: set[int] = set()

    def sync(handle: int) -> None:
        file = os.fstat(handle).st_ino
        assert file not in {named.stat().st_ino for named in tmp_path.glob("[!.]*")}
        synced.add(file)

    monkeypatch.setattr("os.fsync", sync)
    listing = Listing([Provenance(name, "", 32 * name, (name,)) for name in "ab"])
    write_shard(tmp_path, 0, 0, {"packed": torch.zeros(2, 3)}, listing)
    assert {file.stat().st_ino for file in tmp_path.iterdir()} == synced
    assert {*files(tmp_path), *files(tmp_path, PICTURES)} == {*tmp_path.iterdir()}


def test_a_flip_is_free_of_the_noise():
    """What `LatentCache` says of the bit it reads: torch seeds by the low 32."""
    draw, again = (normal(generators([key])) for key in (5, 5 | 1 << 40))
    assert torch.equal(draw, again)


def test_another_tokenizer_cannot_continue_a_cache(artifacts, tmp_path):
    """And the refused one is not put down as the cache's own."""
    recipe = tiny.cache_recipe(artifacts, out=tmp_path / "latents")
    cache(recipe)
    recorded = (recipe.out / "recipe.json").read_text()
    tiny.tokenizer(seed=9).autoencoder.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"was begun with tokenizer .* choose another folder"):
        cache(replace(recipe, tokenizer=str(tmp_path / "other")))
    assert (recipe.out / "recipe.json").read_text() == recorded


def test_captions_are_missed_before_any_encoding_and_another_text_costs_none(
    artifacts, tmp_path, monkeypatch
):
    """Bug: they were missed when all was encoded, and the mend was refused."""
    recipe = tiny.cache_recipe(artifacts, out=tmp_path / "latents")
    silent = replace(recipe, out=tmp_path / "silent", data=Folder(tmp_path / "pictures"),
                     transform=Transform(CenterCrop(tiny.SIZE)))  # fmt: skip
    (tmp_path / "pictures").mkdir()
    picture(tiny.images(1)[0]).save(tmp_path / "pictures/a.png")
    with pytest.raises(ValueError, match="none of 1 pictures looked at has a caption"):
        cache(silent)
    assert not silent.out.exists()
    for i in range(70):
        picture(tiny.images(1)[0]).save(tmp_path / f"pictures/b{i:02}.png")
    for file in (tmp_path / "pictures").glob("*.png"):
        file.with_suffix(".txt").write_text("said at last" if file.stem == "b69" else "")
    assert "said at last" in LatentCache(cache(silent)).captions

    cache(recipe)
    shards = {file: file.stat().st_mtime_ns for file in files(recipe.out)}
    cache(replace(recipe, text=replace(tiny.TEXT, length=40)))
    assert tokens(LatentCache(recipe.out)).shape == (32, 40)
    assert shards == {file: file.stat().st_mtime_ns for file in files(recipe.out)}
    assert len(files(recipe.out, PROMPTS)) == 2


def test_a_stopped_change_of_text_leaves_no_finished_cache(artifacts, tmp_path):
    """Bug: an index of one text stood beside the tokens of another, and was believed."""
    recipe = tiny.cache_recipe(artifacts, out=tmp_path / "latents")
    before = tokens(LatentCache(cache(recipe)))
    with patch("calotype.commands.cached_prompts.tokenize", side_effect=KeyboardInterrupt), \
            pytest.raises(KeyboardInterrupt):  # fmt: skip
        cache(replace(recipe, text=replace(tiny.TEXT, vocabulary=590)))
    with pytest.raises(FileNotFoundError, match="no finished cache"):
        LatentCache(recipe.out)
    assert torch.equal(tokens(LatentCache(cache(recipe))), before)


@pytest.mark.parametrize("change", [{"length": 30}, {"vocabulary": 560}])
def test_a_generator_reads_prompts_as_they_were_made(change, artifacts, tmp_path):
    """Bug: its own length and vocabulary were recorded and not heeded."""
    text = replace(tiny.TEXT, **change)
    recipe = tiny.generator_recipe(artifacts, text=text, run=tiny.run(tmp_path / "run"))
    with pytest.raises(ValueError, match=rf"text\.{next(iter(change))} is .* made with .*again"):
        train_generator(recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["count", "batch_size", "shard_size"])
def test_a_recipe_names_the_flag_that_cannot_be(field, artifacts):
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')} is 0: choose 1 or more"):
        tiny.cache_recipe(artifacts, **{field: 0})


@pytest.mark.parametrize(
    ("field", "value"),
    [("count", 8), ("flipped", True), ("data", tiny.Scenes(16, seed=1, count=32))],
)
def test_another_recipe_cannot_continue_a_cache(field, value, artifacts, tmp_path):
    recipe = replace(tiny.cache_recipe(artifacts), out=tmp_path / "latents")
    cache(recipe)
    with pytest.raises(ValueError, match=rf"^{field}.* was .* is .*choose another"):
        cache(replace(recipe, **{field: value}))
    # Which are free to change.
    cache(replace(recipe, workers=1, batch_size=3, shard_size=5))


def test_cut_captions_are_counted(artifacts, tmp_path):
    recipe = tiny.cache_recipe(artifacts, out=tmp_path, text=replace(tiny.TEXT, length=5))
    with pytest.warns(UserWarning, match=r"(\d+) of \1 captions are longer than 5 tokens"):
        cache(recipe)


def test_a_generator_does_not_train_in_another_tokenizers_latents(artifacts, tmp_path):
    tiny.tokenizer(seed=9).autoencoder.save_pretrained(tmp_path / "other")
    recipe = tiny.generator_recipe(
        artifacts, tokenizer=str(tmp_path / "other"), run=tiny.run(tmp_path / "run")
    )
    with pytest.raises(ValueError, match=r"was encoded by tokenizer .*run cache-latents again"):
        train_generator(recipe)
    assert not (tmp_path / "run").exists()


def test_bug_latents_that_are_no_numbers_were_cached(tokenizer, tmp_path):
    broken = copy.deepcopy(tokenizer)
    with torch.no_grad():
        broken.autoencoder.quant_conv.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"latents are not finite: .*--dtype float32"):
        cached(tmp_path / "nan", encoder(broken))
    with torch.no_grad():
        broken.autoencoder.quant_conv.weight.copy_(1e6 * tokenizer.autoencoder.quant_conv.weight)
    with pytest.raises(ValueError, match="too large for float16"):
        cached(tmp_path / "large", encoder(broken, dtype=torch.float16))
    assert not list(tmp_path.glob("*/*.safetensors"))
    cached(tmp_path / "wide", encoder(broken))


def test_a_cache_is_encoded_in_the_devices_precision_and_keeps_it(artifacts, tmp_path, monkeypatch):
    """The same but for rounding; what was begun in one goes on in it, wherever."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "tokenizer").symlink_to(artifacts / "tokenizer")
    exact, low, auto = (
        tiny.cache_recipe(root, out=root / name, precision=name)
        for name in ("fp32", "bf16", "auto")
    )
    rounded, plain = rows(LatentCache(cache(low))), rows(LatentCache(cache(exact)))
    mean = plain.chunk(2, 1)[0]
    assert not torch.equal(rounded, plain)
    assert (rounded.chunk(2, 1)[0] - mean).square().mean().sqrt() < 0.02 * mean.std()
    assert LatentCache(exact.out).index.error is None
    stated = LatentCache(low.out).index.error
    assert stated and 0 < stated < 0.02
    with monkeypatch.context() as patched:
        patched.setattr("calotype.commands.cache_latents.ERROR", stated / 2)
        with pytest.warns(UserWarning, match=r"in bf16 .* of the means' spread .*--precision fp32"):
            cache(replace(low, out=root / "warned"))
    half = replace(auto, count=16)
    with monkeypatch.context() as patched:
        patched.setattr("calotype.commands.cache_latents.settled", lambda *_: "bf16")
        cache(half)
    assert json.loads((half.out / "recipe.json").read_text())["precision"] == "bf16"
    (half.out / "latents.json").unlink()
    files(half.out)[0].unlink()
    monkeypatch.setattr("calotype.commands.cache_latents.settled", lambda *_: "fp32")
    assert torch.equal(rows(LatentCache(cache(half))), rounded[:16])
