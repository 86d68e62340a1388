"""A cache of a tokenizer with codes holds ids: integers, whole, and of a known range."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

import contract
import tiny
from calotype.commands.cache_latents import cache
from calotype.data import LatentCache
from calotype.recipes.cache import CacheRecipe
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import FSQ, LFQ, RVQ, Discrete

KINDS: dict[str, Any] = {
    "vq": tiny.VQ_BOTTLENECK,
    "fsq": FSQ((5, 4, 3)),
    "rvq": RVQ(3, tiny.VQ_BOTTLENECK.codebook),
    "lfq-15": LFQ(bits=15),
    "lfq-16": LFQ(bits=16),
}
SHAPES = {name: (3, 8, 8) if name == "rvq" else (8, 8) for name in KINDS}
TYPES = {name: torch.int32 if name == "lfq-16" else torch.int16 for name in KINDS}
BATCH = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Saved tokenizers, their features at unit scale."""
    folders = {name: tmp_path_factory.mktemp(name) for name in KINDS}
    for name, spec in KINDS.items():
        contract.tokenizer(spec).save(folders[name] / "tokenizer/model")
    return folders


def recipe(folder: Path, out: Path, **changes: Any) -> CacheRecipe:
    return tiny.cache_recipe(folder, out=out, text=None, batch_size=BATCH, **changes)


@torch.no_grad()
def packed(folder: Path, flip: bool = False) -> torch.Tensor:
    """What the tokenizer packs of all scenes, in batches as the cache's."""
    tokenizer = ImageTokenizer.load(folder / "tokenizer/model")
    images = tiny.SCENES.build().batch(range(32))["image"]
    parts = (images.flip(-1) if flip else images).split(BATCH)
    return torch.cat([tokenizer.pack(part) for part in parts])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", KINDS)
def test_ids_on_disk_are_those_of_the_images(name, dtype, folders, tmp_path):
    """Any reader of safetensors finds them; float16 holds integers up to 2048 only."""
    out = cache(recipe(folders[name], tmp_path / "cache", dtype=dtype))
    shards = [load_file(file)["packed"] for file in sorted(out.glob("*.latents.safetensors"))]
    on_disk, ids = torch.cat(shards), packed(folders[name])
    assert on_disk.dtype == TYPES[name] and on_disk.shape == (32, *SHAPES[name])
    assert torch.equal(on_disk.int(), ids) and len(ids.unique()) > 4
    if name.startswith("lfq"):
        assert ids.max() > 2**14, "else a narrower type would do"
    latents = LatentCache(out)
    rows = latents.batch(list(range(32)), [0] * 32)["packed"]
    assert rows.dtype == torch.int32 and torch.equal(rows, ids)


def test_the_index_says_how_many_codes_there_are(folders, artifacts, tmp_path):
    """For a generator of ids, which needs a vocabulary; moments have none."""
    for name, spec in KINDS.items():
        out = cache(recipe(folders[name], tmp_path / name, count=BATCH))
        codes = json.loads((out / "latents.json").read_text())["codes"]
        assert LatentCache(out).index.codes == codes == spec.build().codes
    assert LatentCache(artifacts / "latents").index.codes is None


def test_an_index_without_codes_is_of_moments(artifacts, tmp_path):
    """As written before there were codes."""
    shutil.copytree(artifacts / "latents", tmp_path / "latents")
    file = tmp_path / "latents/latents.json"
    index = json.loads(file.read_text())
    del index["codes"]
    file.write_text(json.dumps(index))
    assert LatentCache(tmp_path / "latents").index.codes is None


@torch.no_grad()
@pytest.mark.parametrize("name", ["vq", "rvq"])
def test_mirror_images_have_ids_of_their_own(name, folders, tmp_path):
    latents = LatentCache(cache(recipe(folders[name], tmp_path / "cache", flipped=True)))
    upright, mirrored = packed(folders[name]), packed(folders[name], flip=True)
    every = list(range(32))
    assert torch.equal(latents.batch(every, [0] * 32)["packed"], upright)
    assert torch.equal(latents.batch(every, [1 << 40] * 32)["packed"], mirrored)
    assert not torch.equal(mirrored, upright.flip(-1)), "an encoder is no mirror"


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_rows_decode_to_reconstructions(name, folders, tmp_path):
    latents = LatentCache(cache(recipe(folders[name], tmp_path / "cache", count=BATCH)))
    tokenizer = ImageTokenizer.load(folders[name] / "tokenizer/model")
    rows = latents.batch(list(range(BATCH)), [0] * BATCH)["packed"]
    decoded = tokenizer.decode(tokenizer.bottleneck.unpack(rows))
    images = tiny.SCENES.build().batch(range(BATCH))["image"]
    assert torch.equal(decoded, tokenizer.reconstruct(images))


def test_only_missing_ids_are_found_again(folders, tmp_path):
    out = tmp_path / "cache"
    asked = recipe(folders["rvq"], out)
    cache(asked)
    whole = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    (out / "latents.json").unlink()
    max(out.glob("*.latents.safetensors")).unlink()
    packing = patch.object(ImageTokenizer, "pack", autospec=True, side_effect=ImageTokenizer.pack)
    with packing as pack:
        cache(asked)
    assert sum(len(call.args[1]) for call in pack.call_args_list) == 16
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == whole


def test_ids_of_another_grid_do_not_continue_a_cache(folders, tmp_path):
    """The weights are the same, and so is the number of codes."""
    ours = ImageTokenizer.load(folders["fsq"] / "tokenizer/model")
    turned = FSQ((3, 4, 5)).build()
    assert isinstance(ours.bottleneck, Discrete) and turned.codes == ours.bottleneck.codes
    other = ImageTokenizer(ours.autoencoder, turned)
    other.save(tmp_path / "other")
    asked = recipe(folders["fsq"], tmp_path / "cache", count=BATCH)
    index = LatentCache(cache(asked)).index
    assert index.tokenizer == fingerprint(ours) != fingerprint(other)
    with pytest.raises(ValueError, match=r"was begun with tokenizer .* choose another folder"):
        cache(replace(asked, tokenizer=str(tmp_path / "other")))
