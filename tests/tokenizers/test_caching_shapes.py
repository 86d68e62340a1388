"""A cache of a stream whose pictures are sorted into buckets as they come."""

import os
import signal
import tarfile
import time
import warnings
from collections import Counter
from dataclasses import replace
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from calotype.commands.cache_checks import check_related
from calotype.data import (
    Buckets,
    CenterCrop,
    Folder,
    Reader,
    Record,
    Stream,
    Transform,
    WebDataset,
    Whole,
)
from calotype.data.cache.index import Index
from calotype.data.cache.latents import LatentCache
from calotype.data.loading.in_order import in_order
from calotype.data.reading import records
from calotype.tokenizers.caching import cache_latents, finish, together
from calotype.tokenizers.encoder import Encoder, Scan

CROP = Buckets(16, 2)
SCAN = Scan(Transform(CROP), batch_size=3, shard_size=8)
EACH = 20


class Counting(Encoder):
    """Whose rows are the pictures themselves, so that nothing but reading can differ."""

    codes = None
    seen, pause = 0, 0.0

    def rows(self, images, full=0):
        Counting.seen += len(images)
        time.sleep(Counting.pause)
        flipped = {"packed_flipped": images[:, :1].flip(-1).half()} if self.flipped else {}
        return {"packed": images[:, :1].half(), **flipped}


ENCODER = Counting(tiny.tokenizer(), "f00d", 16)


def encoded(number: int) -> bytes:
    file = BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(noise).resize(tiny.MIXED[number % len(tiny.MIXED)]).save(file, "png")
    return file.getvalue()


def tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            for ending, content in (("png", data), ("txt", f"picture {name}".encode())):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                archive.addfile(member, BytesIO(content))


def pictures(first: int) -> dict[str, bytes]:
    return {f"{i:03}": encoded(i) for i in range(first, first + EACH)}


@pytest.fixture(params=[".tar", ".tar.gz"])
def ending(request: pytest.FixtureRequest) -> str:
    """Of tars that are read as if they were listed, and of such as are read in order."""
    return request.param


@pytest.fixture
def tars(tmp_path: Path, ending: str) -> Path:
    root = tmp_path / "tars"
    root.mkdir()
    for k in range(2):
        tar(root / f"{k}{ending}", pictures(EACH * k))
    return root


def cached(tars: Path, out: Path, **scan) -> Path:
    stream = WebDataset(tars, caption_key="txt").build()
    assert isinstance(stream, Stream)
    with together(out):
        shards = cache_latents(ENCODER, stream, replace(SCAN, **scan), out)
        finish(ENCODER, out, shards)
    return out


def by_caption(root: Path) -> dict[str, torch.Tensor]:
    latents = LatentCache(root)
    names = [latents.captions_of(i)[0] for i in range(len(latents))]
    return {name: latents.batch([i], [0])["packed"][0] for i, name in enumerate(names)}


def contents(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in root.iterdir() if file.is_file()}


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_those_of_a_folder_of_the_same_pictures(tars, tmp_path, workers):
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(2 * EACH):
        (folder / f"{i:03}.png").write_bytes(encoded(i))
        (folder / f"{i:03}.txt").write_text(f"picture {i:03}")
    beside = tmp_path / "beside"
    with together(beside):
        shards = cache_latents(ENCODER, Folder(folder).build(), SCAN, beside)
        finish(ENCODER, beside, shards)
    found = by_caption(cached(tars, tmp_path / "streamed", workers=workers))
    wanted = by_caption(beside)
    assert len(found) == 2 * EACH and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    index = Index.read(tmp_path / "streamed")
    assert {shape[1:] for shape in index.shapes} == {
        shape[1:] for shape in Index.read(beside).shapes
    }
    assert len({*index.shapes}) > 3


def test_crops_frames_and_flips_are_those_of_a_folder_too(tars, tmp_path):
    folder, both = tmp_path / "folder", Counting(ENCODER.tokenizer, "f00d", 16, flipped=True)
    folder.mkdir()
    for i in range(2 * EACH):
        (folder / f"{i:03}.png").write_bytes(encoded(i))
        (folder / f"{i:03}.txt").write_text(f"picture {i:03}")
    scan = replace(SCAN, crops=2, frames=True, transform=Transform(replace(CROP, place="random")))
    found = []
    for data, out in ((Folder(folder), "beside"), (WebDataset(tars), "streamed")):
        with together(tmp_path / out):
            shards = cache_latents(both, data.build(), scan, tmp_path / out)
            finish(both, tmp_path / out, shards, crops=2, frames=True)
        latents = LatentCache(tmp_path / out)
        named = {latents.captions_of(i)[0]: i for i in range(len(latents))}
        keys = [crop << 41 | flip << 40 for crop in (0, 1) for flip in (0, 1)]
        found.append({name: [latents.batch([i], [key]) for key in keys]
                      for name, i in named.items()})  # fmt: skip
    one, other = found
    assert one.keys() == other.keys() and len(one) == 2 * EACH
    for name, batches in one.items():
        for mine, its in zip(batches, other[name], strict=True):
            assert torch.equal(mine["packed"], its["packed"])
            assert torch.equal(mine["frame"], its["frame"])
    assert any(not torch.equal(a["packed"], b["packed"]) for a, _, b, _ in one.values())


def test_what_is_there_is_kept_and_what_is_new_encoded(tars, ending, tmp_path):
    root = cached(tars, tmp_path / "cache")
    Counting.seen = 0
    before = contents(cached(tars, root))
    assert not Counting.seen
    some = pictures(EACH)
    some["025"], some["039x"] = encoded(125), encoded(139)  # one is another's, one comes after all
    tar(tars / f"1{ending}", some)
    after = contents(cached(tars, root))
    assert Counting.seen == 2 and before != after
    assert after == contents(cached(tars, tmp_path / "fresh"))


@pytest.mark.parametrize("half", [False, True], ids=["no header", "half a picture"])
def test_what_is_broken_is_left_out_and_told(tars, ending, tmp_path, half):
    some = pictures(0)
    some["003"] = some["003"][: len(some["003"]) // 2] if half else b"no picture"
    tar(tars / f"0{ending}", some)
    with pytest.warns(UserWarning, match="003"):
        root = cached(tars, tmp_path / "cache")
    assert by_caption(root).keys() == {f"picture {i:03}" for i in range(2 * EACH) if i != 3}
    before, Counting.seen = contents(root), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may be tried again
        assert contents(cached(tars, root)) == before and not Counting.seen


def test_two_processes_make_what_one_makes(tars, tmp_path):
    one = contents(cached(tars, tmp_path / "one"))
    fork = get_context("fork")
    both = [fork.Process(target=cached, args=(tars, tmp_path / "two")) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
        assert each.exitcode == 0
    assert contents(tmp_path / "two") == one


def test_two_processes_that_are_killed_ten_times_make_what_one_makes(tars, tmp_path, monkeypatch):
    one, root = contents(cached(tars, tmp_path / "one")), tmp_path / "two"
    random, fork, kills = np.random.default_rng(1), get_context("fork"), 0
    monkeypatch.setattr(Counting, "pause", 0.03)
    while kills < 10:
        both = [fork.Process(target=cached, args=(tars, root)) for _ in range(2)]
        for each in both:
            each.start()
        time.sleep(random.uniform(0.03, 0.2))
        for each in both:
            if each.is_alive() and each.pid:
                os.kill(each.pid, signal.SIGKILL)
                kills += 1
            each.join()
    assert all(one[file.name] == file.read_bytes() for file in root.glob("[0-9]*.safetensors")
               if file.name in one)  # fmt: skip
    assert contents(cached(tars, root)) == one


@pytest.mark.parametrize("ending", [".tar.gz"], indirect=True)
@pytest.mark.parametrize("crop", [CROP, CenterCrop(16)], ids=["buckets", "square"])
def test_bug_a_part_without_pictures_ended_the_cache(tars, tmp_path, crop):
    """If anything had been skipped before."""
    with tarfile.open(tars / "2.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("note.txt"), BytesIO())
    some = pictures(0)
    some["003"] = b"no picture"
    tar(tars / "0.tar.gz", some)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = cached(tars, tmp_path / "cache", transform=Transform(crop))
    assert len(LatentCache(root)) == 2 * EACH - 1


@pytest.mark.parametrize("ending", [".tar.gz"], indirect=True)
def test_a_count_is_refused(tars, tmp_path):
    with pytest.raises(ValueError, match="--count"):
        cached(tars, tmp_path / "cache", count=5)


def test_bug_tars_of_other_pictures_than_a_caches_were_not_refused(tars, tmp_path, ending):
    """And the cache was deleted behind the new one. Of what is read in order this is not known."""
    root = cached(tars, tmp_path / "cache")
    others = tmp_path / "others"
    others.mkdir()
    tar(others / f"0{ending}", {f"other {i}": encoded(i) for i in range(3)})
    dataset = in_order(WebDataset(others, caption_key="txt").build(), 8)
    if ending == ".tar":
        with pytest.raises(ValueError, match="is of other pictures, such as"):
            check_related(root, dataset)
    check_related(root, in_order(WebDataset(tars, caption_key="txt").build(), 8))


def test_bug_pictures_at_urls_were_fetched_twice_and_one_by_one_to_be_sorted(tmp_path, monkeypatch):
    """To see what of a cache is still true."""
    there = fsspec.filesystem("memory")
    urls = [f"memory://{tmp_path.name}/{i}.png" for i in range(40)]
    for number, url in enumerate(urls):
        there.pipe(url, encoded(number))
    some = [Record(url, url, url) for url in urls]
    stream = Stream(Whole(lambda: iter(some)), Reader("skip", "urls", warns=False))
    root = tmp_path / "latents"
    fetched: list[str] = []
    both = Barrier(2, timeout=20)

    def contents(url):
        fetched.append(url)
        if len(fetched) <= 2:
            both.wait()  # two are under way at once
        return read(url)

    def encode() -> int:
        Counting.seen = 0
        with together(root):
            finish(ENCODER, root, cache_latents(ENCODER, stream, SCAN, root))
        return Counting.seen

    assert encode() == 40
    read = records.contents
    monkeypatch.setattr(records, "contents", contents)
    assert encode() == 0 and sorted(fetched) == sorted(urls)
    there.rm(urls[7])
    fetched.clear()
    assert encode() == 0 and len(LatentCache(root)) == 39
    # Of the one that is gone nothing tells what it was: it is tried again, as what is new.
    assert Counter(fetched) == {**dict.fromkeys(urls, 1), urls[7]: 4}
