"""What a cache holds of pictures of which some are broken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from calotype.data import (
    CenterCrop,
    Folder,
    LatentCache,
    Pictures,
    Reader,
    Record,
    Stream,
    Transform,
)
from calotype.data.latents import Index
from calotype.tokenizers.caching import Encoder, Scan, cache_latents, finish, remaining

BROKEN = (1, 4, 5, 6, 7, 9)
"""Of ten; with four pictures a shard, all of the second."""


def folder(root: Path, broken: tuple[int, ...] = ()) -> Path:
    for i in range(10):
        (root / f"{i}").mkdir(parents=True)
        noise = np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(noise).save(root / f"{i}/x.png")
        if i in broken:
            (root / f"{i}/x.png").write_bytes(b"broken")
    return root


def cached(dataset: Pictures | Stream, root: Path, workers: int = 0) -> LatentCache:
    root.mkdir(exist_ok=True)
    encoder = Encoder(tiny.tokenizer().eval(), "made here", tiny.SIZE, dtype=torch.float32)
    scan = Scan(Transform(CenterCrop(tiny.SIZE)), batch_size=2, shard_size=4, workers=workers)
    cache_latents(encoder, dataset, scan, root)
    assert not remaining(dataset, scan, root)
    finish(encoder, root, None)
    return LatentCache(root)


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("workers", [0, 2])
def test_bug_a_cache_held_the_neighbour_of_a_broken_picture(tmp_path: Path, workers: int) -> None:
    """Bug: it held one picture twice, under two captions' places."""
    whole = cached(Folder(folder(tmp_path / "good")).build(), tmp_path / "whole")
    dataset = Folder(folder(tmp_path / "bad", BROKEN)).build()
    some = cached(dataset, tmp_path / "some", workers)
    good = [i for i in range(10) if i not in BROKEN]
    assert Index.read(tmp_path / "some").rows == (3, 0, 1)
    assert some.captions == [str(i) for i in good]
    rows = some.batch(list(range(len(some))), [0] * len(some))["packed"]
    assert torch.allclose(rows, whole.batch(good, [0] * len(good))["packed"], atol=1e-5)
    assert len(dataset.reader.skipped) == len(BROKEN)


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_stream_is_cached_without_what_is_broken(tmp_path: Path) -> None:
    records = Folder(folder(tmp_path / "bad", BROKEN)).build().records
    stream = Stream(lambda seed: iter(records), Reader("skip", "stream"))
    assert cached(stream, tmp_path / "some").captions == ["0", "2", "3", "8"]


@pytest.mark.filterwarnings("ignore:skipped")
def test_nothing_but_broken_pictures_is_one_error(tmp_path: Path) -> None:
    dataset = Pictures([Record(b"", f"{i}.png", "") for i in range(5)], Reader("skip", "these"))
    with pytest.raises(ValueError, match=r"these: none of 5 pictures .* 4\.png: no bytes"):
        cached(dataset, tmp_path)
