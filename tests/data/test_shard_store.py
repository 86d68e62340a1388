"""A cache in a bucket: what is read of it is fetched, kept within bounds, and the same rows."""

import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.data import LatentCache, Loader
from calotype.data.cache.index import LATENTS
from calotype.data.cache.shard_order import ShardOrder

URL = "memory://bucket/latents"


@pytest.fixture
def latents(artifacts, tmp_path, monkeypatch) -> Path:
    """A cache of eight shards, which is in a bucket too."""
    monkeypatch.setenv("CALOTYPE_SHARDS", str(tmp_path / "here"))
    out = cache(tiny.cache_recipe(artifacts, out=tmp_path / "latents", shard_size=4))
    bucket = fsspec.filesystem("memory")
    bucket.store.clear()
    for file in out.rglob("*"):
        if file.is_file():
            bucket.pipe_file(f"/bucket/latents/{file.relative_to(out)}", file.read_bytes())
    return out


def held(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "here").rglob(f"*.{LATENTS}.safetensors"))


@pytest.mark.parametrize("url", [URL, Path(URL)], ids=["text", "path"])
def test_rows_of_a_bucket_are_those_that_were_put_there(url, latents, tmp_path):
    there, here = LatentCache(url), LatentCache(latents)
    assert not held(tmp_path)
    assert there.identity() == here.identity() and there.captions[3:9] == here.captions[3:9]
    one, two = (each.batch([9, 31, 0], [1, 2, 3]) for each in (there, here))
    assert all(torch.equal(one[name], two[name]) for name in ("packed", "tokens", "lengths"))
    assert (there.text_tokenizer / "tokenizer.json").read_bytes() == (
        latents / "text_tokenizer/tokenizer.json").read_bytes()  # fmt: skip


def test_only_what_is_read_is_fetched_and_what_was_not_read_for_long_makes_room(
    latents, tmp_path, monkeypatch
):
    size = min(latents.glob(f"*.{LATENTS}.safetensors")).stat().st_size
    LatentCache(URL)[5]
    assert [file.name for file in held(tmp_path)] == [LatentCache(latents).index.files[1].latents]
    monkeypatch.setenv("CALOTYPE_SHARDS_GIB", str(40 * size / 2**30))
    cached = LatentCache(URL)
    for row in range(32):
        cached[row]
    assert 0 < len(held(tmp_path)) <= 8
    files = [*(tmp_path / "here").rglob("*.safetensors")]
    assert sum(file.stat().st_size for file in files) <= 40 * size


def test_an_epoch_is_all_rows_once_and_goes_on_where_it_was(latents, monkeypatch):
    monkeypatch.setattr(ShardOrder.__init__, "__defaults__", (2,))
    rows, held_out = LatentCache(URL).split(3)
    here = LatentCache(latents).split(3)[0]
    loader = Loader(rows, 29, seed=0)
    first = next(loader.batches())
    every = here.batch(list(range(29)), [0] * 29)["packed"]
    assert torch.equal(*(x.flatten(1).sort(0)[0] for x in (first["packed"], every)))
    whole = Loader(rows, 8, seed=0).batches()
    _, second = next(whole), next(whole)
    assert torch.equal(next(Loader(rows, 8, seed=0).batches(8))["packed"], second["packed"])
    assert held_out.order(0) is not None and here.order(0) is None


def test_bug_shapes_in_a_bucket_were_drawn_from_all_shards_at_once(latents, monkeypatch):
    """Of two shapes, two of the four shards that are read at a time are of each."""
    monkeypatch.setattr("calotype.data.cache.latents.AT_ONCE", 4)
    cached = LatentCache(URL)
    shapes = tuple((8, 4, 4 + i % 2) for i in range(8))  # said, for all rows are of one
    cached.index = replace(cached.index, shapes=shapes)
    order = Loader(cached.split(0)[0], 4, seed=0)._order()
    shards = [np.searchsorted(cached.ends, order(4 * k, 4), side="right") for k in range(8)]
    for shape in (0, 1):
        own = [set(some.tolist()) for some in shards if set(some % 2) == {shape}]
        assert len(own) == 4 and len(own[0] | own[1]) == len(own[2] | own[3]) == 2


def test_a_generator_is_trained_from_a_bucket(artifacts, latents, tmp_path):
    recipe = tiny.generator_recipe(artifacts, cache=Path(URL), run=tiny.run(tmp_path / "run"))
    assert (train_generator(recipe) / "model_index.json").exists()


def test_a_bucket_without_a_cache_is_named(latents):
    with pytest.raises(FileNotFoundError, match=r"no finished cache in memory://bucket/none: copy"):
        LatentCache("memory://bucket/none")
    with pytest.raises(ValueError, match=r"nosuch://bucket/latents: .*nosuch"):
        LatentCache("nosuch://bucket/latents")


def test_what_fails_for_once_is_fetched_again(latents, monkeypatch):
    failures = [OSError("reset by peer")] * 2
    fetch = fsspec.AbstractFileSystem.get_file

    def failing(*arguments, **options):
        if failures:
            raise failures.pop()
        return fetch(*arguments, **options)

    monkeypatch.setattr(fsspec.AbstractFileSystem, "get_file", failing)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert torch.equal(LatentCache(URL)[0]["packed"], LatentCache(latents)[0]["packed"])
    shutil.rmtree(latents)
