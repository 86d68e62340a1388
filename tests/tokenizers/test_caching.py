"""A cache follows what it was made of: what is changed is encoded, and nothing else; what comes of
it is what a new cache would be, whoever made it and however often it was stopped."""

import json
import os
import signal
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.data import CenterCrop, Folder, LatentCache, Parquet, RandomCrop, Transform
from calotype.data.cache_index import LATENTS, PROMPTS
from calotype.data.pictures import Parts, Reader, Record, Stream
from calotype.pipelines import picture
from calotype.recipes.cache import CacheRecipe
from calotype.tokenizers.caching import begin_work, cache_latents, finish
from calotype.tokenizers.encoder import Encoder, Scan

COUNT = 7


def put(folder: Path, name: str, seed: int, caption: str) -> None:
    file = folder / f"{name}.png"
    picture(tiny.images(1, seed)[0]).save(file)
    file.with_suffix(".txt").write_text(caption)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i in range(COUNT):
        put(tmp_path / "pictures", f"b{i}", i, f"picture {i}")
    return tmp_path / "pictures"


def recipe(artifacts: Path, folder: Path, out: str, **changes) -> CacheRecipe:
    base = tiny.cache_recipe(
        artifacts, out=folder.parent / out, data=Folder(folder), shard_size=3, batch_size=4,
        transform=Transform(RandomCrop(tiny.SIZE, resize=20)),
    )  # fmt: skip
    return replace(base, **changes)


def contents(root: Path) -> dict[str, bytes]:
    """All files of a cache but how it was asked for, by their names."""
    every = [file for file in root.rglob("*") if file.is_file() and file.name != "recipe.json"]
    return {str(file.relative_to(root)): file.read_bytes() for file in every}


class Counted:
    """How many images are encoded while it is entered."""

    def __enter__(self) -> "Counted":
        self.images = 0
        rows = Encoder.rows

        def counting(encoder, images, full=0):
            self.images += len(images)
            return rows(encoder, images, full)

        self._patch = patch.object(Encoder, "rows", counting)
        self._patch.start()
        return self

    def __exit__(self, *_) -> None:
        self._patch.stop()


def caption(folder: Path) -> int:
    (folder / "b4.txt").write_text("another picture")
    return 0


def replaced(folder: Path) -> int:
    """By one of as many bytes, at the same time to the second."""
    before = (folder / "b4.png").stat()
    with Image.open(folder / "b4.png") as image:
        turned = image.rotate(180)
    turned.save(folder / "b4.png")
    os.utime(folder / "b4.png", (int(before.st_atime), int(before.st_mtime)))
    return 1


def added(folder: Path) -> int:
    put(folder, "a", 20, "the first")
    put(folder, "b3½", 21, "one between")
    return 2


def dropped(folder: Path) -> int:
    for end in ("png", "txt"):
        (folder / f"b1.{end}").unlink()
    return 0


def touched(folder: Path) -> int:
    """As a copy of the folder is."""
    for file in folder.iterdir():
        os.utime(file, (5, 5))
    return 0


def renamed(folder: Path) -> int:
    for end in ("png", "txt"):
        (folder / f"b1.{end}").rename(folder / f"z.{end}")
    return 1


def everything(folder: Path) -> int:
    return sum(edit(folder) for edit in (caption, replaced, added, dropped))


EDITS = [caption, replaced, added, dropped, touched, renamed, everything]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_what_changed_is_encoded_and_all_is_as_if_made_anew(edit, artifacts, folder):
    """Bug: a source was known by the number of its pictures alone, so that old captions and old
    latents were kept without a word."""
    asked = recipe(artifacts, folder, "latents")
    with Counted() as first:
        cache(asked)
    assert first.images == COUNT
    changed = edit(folder)
    with Counted() as again:
        cache(asked)
    assert again.images == changed
    new = cache(replace(asked, out=folder.parent / "new"))
    assert contents(asked.out) == contents(new)
    with Counted() as last:
        cache(asked)
    assert last.images == 0


def test_nothing_is_written_where_nothing_changed(artifacts, folder):
    asked = recipe(artifacts, folder, "latents")
    cache(asked)
    before = {
        file: file.stat().st_mtime_ns for file in asked.out.iterdir() if "recipe" not in file.name
    }
    moved = folder.rename(folder.with_name("moved"))
    cache(replace(asked, data=Folder(moved), batch_size=5, workers=1))
    after = {
        file: file.stat().st_mtime_ns for file in asked.out.iterdir() if "recipe" not in file.name
    }
    assert {f: t for f, t in after.items() if f.name != ".work"} == {
        f: t for f, t in before.items() if f.name != ".work"}  # fmt: skip


def test_shards_of_another_size_cost_no_encoding(artifacts, folder):
    asked = recipe(artifacts, folder, "latents")
    cache(asked)
    larger = replace(asked, shard_size=5)
    with Counted() as again:
        cache(larger)
    assert again.images == 0 and LatentCache(asked.out).index.rows == (5, 2)
    assert contents(asked.out) == contents(cache(replace(larger, out=folder.parent / "new")))


def test_a_cache_that_was_stopped_mixes_nothing(artifacts, folder):
    """Bug: what was encoded before an edit stood beside the captions after it."""
    asked = recipe(artifacts, folder, "latents")

    def stop(encoder, images, full=0, rows=Encoder.rows, seen=[]):  # noqa: B006
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return rows(encoder, images, full)

    with patch.object(Encoder, "rows", stop), pytest.raises(KeyboardInterrupt):
        cache(asked)
    assert len([*asked.out.glob(f"*.{LATENTS}.*")]) == 2
    everything(folder)
    cache(asked)
    assert contents(asked.out) == contents(cache(replace(asked, out=folder.parent / "new")))


def test_pictures_of_another_folder_are_refused(artifacts, folder):
    """Else a slip in its name would replace them all."""
    asked = recipe(artifacts, folder, "latents")
    before = contents(cache(asked))
    (other := folder.with_name("other")).mkdir()
    put(other, "c", 0, "another")
    with pytest.raises(ValueError, match=r"latents is of other pictures, such as b0\.png, than fo"):
        cache(replace(asked, data=Folder(other)))
    assert contents(asked.out) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("transform", Transform(CenterCrop(tiny.SIZE))), ("dtype", "float32"), ("crops", 2),
     ("flipped", True)],
)  # fmt: skip
def test_what_is_not_followed_is_refused_by_name(field, value, artifacts, folder):
    asked = recipe(artifacts, folder, "latents")
    cache(asked)
    with pytest.raises(ValueError, match=rf"^{field}.* was .* when .*latents began and is "):
        cache(replace(asked, **{field: value}))


def test_a_generator_does_not_go_on_in_a_cache_that_changed(artifacts, folder):
    asked = recipe(artifacts, folder, "latents")
    cache(asked)
    text = tiny.generator_recipe(artifacts, cache=asked.out, run=tiny.run(folder.parent / "run"))
    train_generator(text)
    again = replace(text, run=replace(text.run, steps=4, resume=True))
    touched(folder)
    cache(asked)
    train_generator(again)
    caption(folder)
    cache(asked)
    with pytest.raises(ValueError, match=r"was begun with (rows|text) .*, and now it is"):
        train_generator(replace(again, run=replace(again.run, steps=5)))


def test_a_broken_picture_is_left_out_and_tried_again_when_it_changed(artifacts, folder):
    """Bug: its neighbour stood in its place, twice."""
    whole = (folder / "b2.png").read_bytes()
    (folder / "b2.png").write_bytes(whole[:-40])
    asked = recipe(artifacts, folder, "latents", transform=Transform(CenterCrop(tiny.SIZE)))
    said = r"1 pictures cannot be read and are not in .*: b2\.png \(.*truncated"
    with pytest.warns(UserWarning, match="skipped"), pytest.warns(UserWarning, match=said):
        cache(asked)
    latents = LatentCache(asked.out)
    assert list(latents.captions) == [f"picture {i}" for i in range(COUNT) if i != 2]
    packed = latents.batch(list(range(6)), [0] * 6)["packed"]
    assert len({row.numpy().tobytes() for row in packed}) == 6
    with Counted() as again, pytest.warns(UserWarning, match=said):
        cache(asked)
    assert again.images == 0
    (folder / "b2.png").write_bytes(whole)
    with Counted() as mended:
        cache(asked)
    assert mended.images == 1 and len(LatentCache(asked.out)) == COUNT
    assert contents(asked.out) == contents(cache(replace(asked, out=folder.parent / "new")))


def test_names_are_compared_in_their_normal_form(artifacts, folder):
    name = "é"
    put(folder, unicodedata.normalize("NFC", name), 30, "said")
    asked = recipe(artifacts, folder, "latents")
    cache(asked)
    for end in ("png", "txt"):
        file = folder / f"{unicodedata.normalize('NFC', name)}.{end}"
        file.rename(folder / f"{unicodedata.normalize('NFD', name)}.{end}")
    with Counted() as again:
        cache(asked)
    assert again.images == 0 and "said" in LatentCache(asked.out).captions


def table(file: Path, rows: list[tuple[int, str]]) -> None:
    from io import BytesIO

    import datasets

    def png(seed: int) -> bytes:
        picture(tiny.images(1, seed)[0]).save(data := BytesIO(), "png")
        return data.getvalue()

    columns = {"image": [{"bytes": png(seed), "path": None} for seed, _ in rows],
               "caption": [said for _, said in rows]}  # fmt: skip
    datasets.Dataset.from_dict(columns).to_parquet(file)


def test_rows_of_a_table_are_known_by_what_they_hold(artifacts, folder):
    """A row before them, other captions and another file's name cost none of them anew."""
    file = folder.parent / "t.parquet"
    table(file, [(i, f"picture {i}") for i in range(COUNT)])
    asked = recipe(artifacts, folder, "latents", data=Parquet(file))
    cache(asked)
    table(file, [(20, "new"), *((i, f"a picture {i}") for i in range(COUNT))])
    with Counted() as again:
        cache(asked)
    assert again.images == 1
    assert contents(asked.out) == contents(cache(replace(asked, out=folder.parent / "new")))


def test_several_crops_of_a_picture_are_chosen_by_the_key(artifacts, folder):
    asked = recipe(artifacts, folder, "latents", crops=3)
    latents = LatentCache(cache(asked))
    assert len(latents) == COUNT
    keys = np.random.default_rng(0).integers(2**63, size=60).tolist()
    rows = latents.batch([2] * 60, keys)["packed"]
    stored = load_file(min(asked.out.glob(f"*.{LATENTS}.safetensors")))["packed"][6:9].float()
    assert len(stored.unique(dim=0)) == 3
    which = [int((stored == row).flatten(1).all(1).nonzero()) for row in rows]
    assert all(10 < which.count(crop) < 32 for crop in range(3))
    again = latents.batch([2] * 60, [key ^ 0xFFFF for key in keys])["packed"]
    assert torch.equal(rows, again), "noise is seeded by the low bits"


def test_one_of_several_captions_is_chosen_by_the_key(artifacts, folder, monkeypatch):
    class Many(Record):
        captions = ("a red circle", "a large blue square")

    build = Folder.build

    def several(spec):
        found = build(spec)
        found.records = [Many(*record) for record in found.records]
        return found

    monkeypatch.setattr(Folder, "build", several)
    latents = LatentCache(cache(recipe(artifacts, folder, "latents")))
    keys = np.random.default_rng(0).integers(2**63, size=100).tolist()
    lengths = latents.batch([2] * 100, keys)["lengths"].tolist()
    assert len({*lengths}) == 2 and 25 < lengths.count(min(lengths)) < 75
    assert latents.captions_of(2) == list(Many.captions)


class Files(Parts):
    """Three files."""

    def __init__(self, sizes: tuple[int, ...] = (5, 0, 8)) -> None:
        super().__init__(sizes, len(sizes))

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:
        length, first = self.counts[part] or 0, sum(map(int, filter(None, self.counts[:part])))
        for i in (first + place for place in takewhile(lambda place: place < length, places)):
            image = Image.fromarray(np.full((tiny.SIZE, tiny.SIZE, 3), 9 * i, np.uint8))
            yield Record(image, f"sample {i}", f"grey {i}")


def stream_of(*sizes: int) -> Stream:
    return Stream(Files(sizes or (5, 0, 8)), Reader("skip", "some"), local=True)


class Stub(Encoder):
    """Encodes no more than it must; slowly, where it is to be killed."""

    def rows(self, images, full=0):
        time.sleep(PAUSE)
        return {"packed": images[:, :1, :2, :2].half()}

    codes = None


PAUSE = 0.0
STUB = Stub(tiny.tokenizer(), "f00d", tiny.SIZE)
SCAN = Scan(None, count=11, batch_size=2, shard_size=3)


def fill(root: Path, pause: float = 0.0) -> None:
    global PAUSE
    PAUSE = pause
    shards = cache_latents(STUB, stream_of(), SCAN, root)
    if pause:
        return
    finish(STUB, root, shards)


def made(root: Path) -> dict[str, bytes]:
    root.mkdir()
    fill(root)
    return contents(root)


def test_two_processes_cache_a_stream_as_one_does_however_often_they_are_killed(tmp_path):
    one = made(tmp_path / "one")
    assert LatentCache(tmp_path / "one").index.rows == (3, 2, 3, 3)
    random, fork, kills = np.random.default_rng(0), get_context("fork"), 0
    root = tmp_path / "two"
    root.mkdir()
    while kills < 10:
        begin_work(root)
        both = [fork.Process(target=fill, args=(root, 0.03)) for _ in range(2)]
        for each in both:
            each.start()
        time.sleep(random.uniform(0.02, 0.15))
        for each in both:
            if each.is_alive() and each.pid:
                os.kill(each.pid, signal.SIGKILL)
                kills += 1
            each.join()
    for file in root.glob("*.safetensors"):
        assert file.name not in one or one[file.name] == file.read_bytes()
    begin_work(root)
    both = [fork.Process(target=fill, args=(root, 0.001)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
        assert each.exitcode == 0
    fill(root)
    assert contents(root) == one


@pytest.mark.parametrize("count", [None, 4, 5, 6, 13, 20])
def test_so_many_of_a_stream_are_the_first(count, tmp_path):
    scan = replace(SCAN, count=count)
    shards = cache_latents(STUB, stream_of(), scan, tmp_path)
    finish(STUB, tmp_path, shards)
    wanted = min(13, 13 if count is None else count)
    assert [*LatentCache(tmp_path).captions] == [f"grey {i}" for i in range(wanted)]


def test_a_learnt_vocabulary_takes_a_sample(artifacts, folder, monkeypatch):
    """Bug: one process read all captions while the others waited, and gave up."""
    monkeypatch.setattr("calotype.commands.cached_prompts.LEARNT_FROM", 3)
    asked, seen = recipe(artifacts, folder, "latents"), []
    learn = type(tiny.TEXT).tokenizer
    with patch.object(type(tiny.TEXT), "tokenizer", lambda text, captions: learn(
        text, seen.append(captions := [*captions]) or captions)):  # fmt: skip
        cache(asked)
    assert seen[-1] == ["picture 0", "picture 2", "picture 4"]
    assert len([*asked.out.glob(f"*.{PROMPTS}.*")]) == 3
    assert json.loads((asked.out / "latents.json").read_text())["rows"] == [3, 3, 1]
