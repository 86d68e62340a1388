"""A cache follows what it was made of: what is changed is encoded, and nothing else; what comes of
it is what a new cache would be, whoever made it and however often it was stopped."""

import json
import os
import signal
import tarfile
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BytesIO
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.data import (
    CenterCrop,
    Folder,
    LatentCache,
    Parquet,
    RandomCrop,
    Transform,
    WebDataset,
)
from calotype.data.cache.index import INDEX, LATENTS, PROMPTS
from calotype.data.cache.placed import provenance
from calotype.data.cache.provenance import own_name
from calotype.data.cache.shards import Shard
from calotype.data.cache.work import Work
from calotype.data.loading.passes import once
from calotype.data.mixtures import Mixture
from calotype.data.pictures import Pictures
from calotype.data.reading.records import Reader, Record
from calotype.data.streams import Parts, Stream, Whole
from calotype.pipelines import picture
from calotype.recipes.cache import CacheRecipe
from calotype.tokenizers.caching import WORK, _first, cache_latents, finish, together
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


def png(seed: int) -> bytes:
    picture(tiny.images(1, seed)[0]).save(data := BytesIO(), "png")
    return data.getvalue()


def table(file: Path, rows: list[tuple[int, str]]) -> None:
    import datasets

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


class Unknown(Files):
    """Whose lengths only reading tells."""

    counted = False


def stream_of(*sizes: int, kind: type[Files] = Files, local: bool = True) -> Stream:
    return Stream(kind(sizes or (5, 0, 8)), Reader("skip", "some"), local=local)


class Stub(Encoder):
    """Encodes no more than it must; slowly, where it is to be killed."""

    def rows(self, images, full=0):
        time.sleep(PAUSE)
        return {"packed": images[:, :1, :2, :2].half()}

    codes = None


PAUSE = 0.0
STUB = Stub(tiny.tokenizer(), "f00d", tiny.SIZE)
SCAN = Scan(None, count=11, batch_size=2, shard_size=3)


def fill(root: Path, kind: type[Files], pause: float = 0.0) -> None:
    global PAUSE
    PAUSE = pause
    with together(root):
        shards = cache_latents(STUB, stream_of(kind=kind), SCAN, root)
        if not pause:
            finish(STUB, root, shards)


def made(root: Path, kind: type[Files]) -> dict[str, bytes]:
    root.mkdir()
    fill(root, kind)
    return contents(root)


def test_bug_what_a_kill_left_of_a_file_stayed_in_the_cache(tmp_path):
    """safetensors writes beside its file too, since 0.8."""
    one = made(tmp_path / "one", Files)
    for name in (".tmpxPrvGw", f".{min(one)}.partial"):
        (tmp_path / "one" / name).touch()
    (tmp_path / "one" / INDEX).unlink()
    fill(tmp_path / "one", Files)
    assert contents(tmp_path / "one") == one


@pytest.mark.parametrize(("kind", "rows"), [(Files, (3, 3, 3, 2)), (Unknown, (3, 2, 3, 3))])
def test_two_processes_cache_a_stream_as_one_does_however_often_they_are_killed(
    kind, rows, tmp_path
):
    one = made(tmp_path / "one", kind)
    assert LatentCache(tmp_path / "one").index.rows == rows
    random, fork, kills = np.random.default_rng(0), get_context("fork"), 0
    root = tmp_path / "two"
    root.mkdir()
    while kills < 10:
        both = [fork.Process(target=fill, args=(root, kind, 0.03)) for _ in range(2)]
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
    both = [fork.Process(target=fill, args=(root, kind, 0.001)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
        assert each.exitcode == 0
    fill(root, kind)
    assert contents(root) == one


@pytest.mark.parametrize("kind", [Files, Unknown])
@pytest.mark.parametrize("count", [None, 4, 5, 6, 13, 20])
def test_so_many_of_a_stream_are_the_first(count, kind, tmp_path):
    scan = replace(SCAN, count=count)
    with together(tmp_path):
        finish(STUB, tmp_path, cache_latents(STUB, stream_of(kind=kind), scan, tmp_path))
    wanted = min(13, 13 if count is None else count)
    assert [*LatentCache(tmp_path).captions] == [f"grey {i}" for i in range(wanted)]


@pytest.mark.parametrize("count", [3, 6, 7])
def test_bug_a_count_that_ended_in_broken_pictures_alone_failed(count, tmp_path):
    """Shards are of five, and of the second all are broken; another process made all of them."""
    records = [Record(png(i) if not 5 <= i < 10 else b"", str(i), str(i)) for i in range(12)]
    stream = Stream(Whole(lambda: iter(records)), Reader("skip", "some", warns=False))
    with together(tmp_path):
        every = cache_latents(STUB, stream, Scan(None, batch_size=2, shard_size=5), tmp_path)
        assert [shard.rows for shard in every] == [5, 2]
        with Work(tmp_path / WORK / "shards") as work:
            shards = [Shard(*each) for each in work.result(0)]
        assert [shard.listed for shard in shards] == [5, 5, 2]
        finish(STUB, tmp_path, [*_first(tmp_path, shards, count)])
    assert [*LatentCache(tmp_path).captions] == [str(i) for i in range(min(count, 5))]


@pytest.mark.parametrize(
    ("local", "rows", "loaders"), [(True, (5, 5, 2), 1), (False, (4, 4, 4), 3)]
)
def test_shards_are_as_large_as_asked_for_however_small_a_streams_parts_are(
    local, rows, loaders, tmp_path, monkeypatch
):
    """Bug: of tars on disk each 128 samples became a shard, by a loader of their own."""
    scan, counted = Scan(None, batch_size=2, shard_size=5), []
    for module in ("filling_listed", "filling_streams"):
        monkeypatch.setattr(f"calotype.tokenizers.{module}.once", lambda *given, **said: (
            counted.append(given) or once(*given, **said)))  # fmt: skip
    for workers in (0, 2):
        root, stream = tmp_path / str(workers), stream_of(*[2] * 6, local=local)
        with together(root):
            finish(STUB, root, cache_latents(STUB, stream, replace(scan, workers=workers), root))
        assert LatentCache(root).index.rows == rows
    assert len(counted) == 2 * loaders
    assert [*LatentCache(root).captions] == [f"grey {i}" for i in range(12)]
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def tar(file: Path, samples: dict[str, tuple[int, str]]) -> None:
    with tarfile.open(file, "w") as members:
        for key, (seed, said) in samples.items():
            for ending, data in (("png", png(seed)), ("txt", said.encode())):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                members.addfile(member, BytesIO(data))


def test_samples_of_a_tar_are_followed(artifacts, folder):
    """Bug: one that was moved into another folder was refused as of other pictures."""
    (home := folder.parent / "tars").mkdir()
    samples = {str(i): (i, f"picture {i}") for i in range(COUNT)}
    tar(home / "0.tar", samples)
    tar(home / "1.tar", {"z": (30, "last")})
    asked = recipe(artifacts, folder, "latents", data=WebDataset(str(home / "[0-9].tar")))
    cache(asked)
    tar(home / "0.tar", {**samples, "4": (20, "new"), "5": (5, "said otherwise"), "8": (8, "more")})
    home = home.rename(home.with_name("moved"))
    asked = replace(asked, data=WebDataset(str(home / "{0..1}.tar")))
    with Counted() as again:
        cache(asked)
    assert again.images == 2
    assert contents(asked.out) == contents(cache(replace(asked, out=folder.parent / "new")))


@pytest.mark.parametrize("streamed", [False, True])
def test_pictures_at_urls_are_followed(tmp_path, streamed):
    """Bug: a replaced one kept its row, and one that was not there was left out for ever."""
    there = fsspec.filesystem("memory")
    urls = [f"memory://{tmp_path.name}/{i}.png" for i in range(4)]
    for i in (0, 1, 3):
        there.pipe(urls[i], png(i))
    data = Pictures(
        [Record(url, url, url[-5]) for url in urls], Reader("skip", "urls", warns=False)
    )
    if streamed:
        data = Stream(Whole(lambda found=data: iter(found.records)), data.reader)

    def encoded(root: Path) -> tuple[int, list[str]]:
        seen: list[int] = []
        with together(root):
            finish(STUB, root, cache_latents(STUB, data, SCAN, root, seen.append))
        return sum(seen), [*LatentCache(root).captions]

    root = tmp_path / "latents"
    assert encoded(root) == (3, ["0", "1", "3"])
    assert encoded(root) == (0, ["0", "1", "3"])
    there.pipe(urls[1], png(20))
    assert encoded(root) == (1, ["0", "1", "3"])
    there.pipe(urls[2], png(2))
    assert encoded(root) == (1, ["0", "1", "2", "3"])
    there.rm(urls[0])
    assert encoded(root) == (0, ["1", "2", "3"])
    encoded(tmp_path / "new")
    assert contents(root) == contents(tmp_path / "new")


def test_a_mixture_may_be_moved_and_loses_its_weights_aloud(artifacts, folder, capsys):
    """Bug: its pictures were known by their whole paths, and refused as others."""
    (second := folder.with_name("second")).mkdir()
    put(second, "b0", 9, "of one name")
    asked = recipe(artifacts, folder, "latents", data=Mixture(
        Folder(folder), Folder(second), weights=(1.0, 3.0)))  # fmt: skip
    cache(asked)
    assert "the cache holds each picture once" in " ".join(capsys.readouterr().err.split())
    folder, second = (
        each.rename(each.with_name(f"{each.name} moved")) for each in (folder, second)
    )
    with Counted() as again:
        cache(replace(asked, data=Mixture(Folder(folder), Folder(second), weights=(1.0, 3.0))))
    assert again.images == 0


@pytest.mark.parametrize(
    ("name", "source", "own"),
    [
        ("/x/a/b.png", "folder /x/a", "b.png"),
        ("/x/a/b.png", "mixture of folder /x; folder /y", "1/a/b.png"),
        ("/y/b.png", "mixture of folder /x; folder /y", "2/b.png"),
        ("dataset u/n row 3", "mixture of folder /x; dataset u/n", "2/row 3"),
        ("/x/a/01.tar:k.jpg", "webdataset /x/a/{00..12}.tar", "01.tar:k.jpg"),
        ("/x/a/01.tar:k.jpg", "webdataset /x/*/0?.tar", "a/01.tar:k.jpg"),
        ("/x/t.parquet row 3", "parquet /x/t.parquet", "t.parquet row 3"),
        ("/x/[a]/b.png", "folder /x/[a]", "b.png"),
        ("/xy/b.png", "folder /x", "/xy/b.png"),
        ("http://x/a.png", "mixture of parquet /x; folder /y", "http://x/a.png"),
    ],
)
def test_a_picture_is_known_by_its_name_within_its_source(name, source, own):
    assert own_name(name, source) == own


def test_a_caption_with_half_a_character_is_refused():
    with pytest.raises(ValueError, match=r"caption of a\.png: .*has half a character"):
        provenance(Record(b"", "a.png", "a", ("a", "b \ud800")), "some")


def test_a_learnt_vocabulary_takes_a_sample(artifacts, folder):
    """Bug: one process read all captions while the others waited, and gave up."""
    asked, seen = recipe(artifacts, folder, "latents", learnt_from=3), []
    learn = type(tiny.TEXT).tokenizer
    with patch.object(type(tiny.TEXT), "tokenizer", lambda text, captions: learn(
        text, seen.append(captions := [*captions]) or captions)):  # fmt: skip
        cache(asked)
    assert seen[-1] == ["picture 0", "picture 2", "picture 4"]
    assert len([*asked.out.glob(f"*.{PROMPTS}.*")]) == 3
    assert json.loads((asked.out / "latents.json").read_text())["rows"] == [3, 3, 1]
    assert LatentCache(asked.out).index.learnt_from == 3
    with patch("calotype.tokenizers.caching._write", side_effect=AssertionError):
        cache(asked)
    again = cache(replace(asked, learnt_from=100))
    assert LatentCache(again).index.learnt_from == 100
