"""Pictures of a stream in buckets: sorted as they come, the same however they are read."""

import tarfile
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from itertools import islice
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tiny
from calotype.data import (
    Buckets,
    Loader,
    Mixture,
    Reader,
    Record,
    Stream,
    Transform,
    WebDataset,
    once,
)
from calotype.data.aspect import rooms
from calotype.data.aspect.rooms import measured, shares
from calotype.data.loading import passes
from calotype.data.loading.passes import own_turns
from calotype.data.loading.shaped import ShapedBatches, batches_of
from calotype.data.loading.streaming import Share
from calotype.data.reading import remote
from calotype.data.reading.images import BrokenImage
from calotype.training import Batch

TARS, EACH = 6, 20
N = TARS * EACH
CROP = Buckets(16, 2, place="centre")
TRANSFORM = Transform(CROP)


def tar_of(numbers: Iterable[int], broken: tuple[int, ...] = ()) -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in numbers:
            encoded = BytesIO()
            noise = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
            size = tiny.MIXED[i % len(tiny.MIXED)]
            Image.fromarray(noise).resize(size).save(encoded, "png")
            data = encoded.getvalue()
            data = data[: len(data) // 2] if i in broken else data  # its header is whole
            for ending, content in (("png", data), ("txt", str(i).encode())):
                member = tarfile.TarInfo(f"{i}.{ending}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
    return file.getvalue()


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tars")
    for shard in range(TARS):
        numbers = range(shard * EACH, (shard + 1) * EACH)
        (root / f"{shard}.tar").write_bytes(tar_of(numbers))
    return root


def stream_of(root: Path, lanes: int = 12, buffer: int = 48) -> Stream:
    found = WebDataset(root, shuffle_buffer=buffer, lanes=lanes).build()
    assert isinstance(found, Stream)
    return found


def told(batch: Batch) -> tuple[tuple[int, ...], list[str], list[int], int]:
    """All that a batch is."""
    image = batch["image"]
    return tuple(image.shape), batch["caption"], batch["key"], int(image.sum())


def drawn(
    tars: Path, count: int, size: int = 4, position: int = 0, rank: int = 0, world: int = 1,
    parts: int = 1, workers: int = 0,
) -> list[tuple]:  # fmt: skip
    loader = Loader(stream_of(tars), size * world * parts, seed=3, transform=TRANSFORM,
                    workers=workers)  # fmt: skip
    return [told(batch) for batch in islice(loader.batches(position, rank, world, size), count)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), st.integers(1, 20))
def test_shares_are_whole_and_in_the_mean_what_is_due(counts: list[int], batches: int) -> None:
    parts, total = np.array(counts) / sum(counts), np.zeros(len(counts))
    for seed in range(200):
        found = shares(parts, batches, np.random.default_rng(seed))
        assert found.sum() == batches and (np.abs(found - parts * batches) < 1 + 1e-9).all()
        assert not found[parts == 0].any()
        total += found
    np.testing.assert_allclose(total / 200, parts * batches, atol=0.17)  # five deviations
    assert shares(parts, batches, None).sum() == batches


def test_a_batch_is_of_one_bucket_and_each_picture_of_its_own(tars: Path) -> None:
    shapes = Counter()
    for shape, captions, _, _ in drawn(tars, 3 * N // 4):
        own = {CROP.nearest(*tiny.MIXED[int(c) % len(tiny.MIXED)]) for c in captions}
        ((width, height),) = own
        assert shape == (4, 3, height, width)
        shapes[shape] += len(captions)
    assert len(shapes) >= 4


def test_each_picture_comes_about_once_an_epoch(tars: Path) -> None:
    """Each comes by chance where batches and buckets do not come out even; none is forgotten."""
    epochs = 20
    seen = Counter(c for _, captions, _, _ in drawn(tars, epochs * N // 4) for c in captions)
    assert len(seen) == N and sum(seen.values()) == epochs * N
    assert min(seen.values()) > 0.4 * epochs and max(seen.values()) < 1.8 * epochs


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resumed_anywhere_it_goes_on(tars: Path, workers: int) -> None:
    whole = drawn(tars, 60)
    assert drawn(tars, 20, position=4 * 40, workers=workers) == whole[40:]
    if not workers:
        for number in (1, 7, 8, 33):
            assert drawn(tars, 3, position=4 * number) == whole[number : number + 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_micro_batches_are_one(tars: Path, workers: int) -> None:
    alone = drawn(tars, 60, parts=6)
    for world in (2, 3):
        each = 6 // world
        ranks = [drawn(tars, 10 * each, rank=rank, world=world, parts=each, workers=workers)
                 for rank in range(world)]  # fmt: skip
        steps = [batch for step in range(10) for rank in ranks
                 for batch in rank[step * each : (step + 1) * each]]  # fmt: skip
        assert steps == alone


def test_to_resume_reads_the_rooms_again_and_nothing_before(
    tars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    measured = "calotype.data.loading.shaped.measured"
    monkeypatch.setattr(measured, lambda *one: looked_at.append(1) or rooms.measured(*one))
    batches = batches_of(stream_of(tars), Share(4 * 1000, 4, 0, 1, 1), 3, 3, TRANSFORM, 0)
    assert isinstance(batches, ShapedBatches)
    list(islice(iter(batches), 1))
    assert len(looked_at) == 4 * batches.each


def test_other_seeds_draw_otherwise_and_unshuffled_comes_in_order(tars: Path) -> None:
    def captions(seed: int, shuffle: bool) -> list[str]:
        loader = Loader(stream_of(tars), 4, seed=seed, transform=TRANSFORM, shuffle=shuffle)
        return [c for batch in islice(loader.batches(), 8) for c in batch["caption"]]

    assert captions(0, True) != captions(1, True)
    first = captions(0, False)
    assert {*map(int, first)} <= {*range(48)} and captions(1, False) == first
    by_bucket = {}
    for number in map(int, first):
        shape = CROP.nearest(*tiny.MIXED[number % len(tiny.MIXED)])
        by_bucket.setdefault(shape, []).append(number)
    assert all(own[: len({*own})] == sorted({*own}) for own in by_bucket.values())


def test_the_next_of_its_bucket_takes_the_place_of_a_broken_one(tmp_path: Path) -> None:
    broken = (1, 6, 8)
    (tmp_path / "0.tar").write_bytes(tar_of(range(48), broken))
    loader = Loader(stream_of(tmp_path), 4, seed=0, transform=TRANSFORM)
    with pytest.warns(UserWarning, match="skipped"):
        batches = [told(batch) for batch in islice(loader.batches(), 48)]
    seen = {int(c) for _, captions, _, _ in batches for c in captions}
    assert seen == {*range(48)} - {*broken} and loader.skipped == 3
    for shape, captions, _, _ in batches:
        own = {CROP.nearest(*tiny.MIXED[int(c) % len(tiny.MIXED)]) for c in captions}
        assert own == {(shape[3], shape[2])}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_has_each_picture_once(tmp_path: Path, workers: int) -> None:
    broken = (3, 10)
    (tmp_path / "0.tar").write_bytes(tar_of(range(40), broken))
    with pytest.warns(UserWarning, match="skipped"):
        batches = list(once(stream_of(tmp_path), 4, TRANSFORM, workers))
        one = {int(batch["row"][0]): batch for batch in once(stream_of(tmp_path), 1, TRANSFORM)}
    rows = [row for batch in batches for row in batch["row"]]
    assert sorted(rows) == [i for i in range(40) if i not in broken]
    assert [int(c) for batch in batches for c in batch["caption"]] == rows
    for batch in batches:
        for row, key, image in zip(batch["row"], batch["key"], batch["image"], strict=True):
            assert one[row]["key"] == [key] and torch.equal(one[row]["image"][0], image)


def test_longer_pictures_are_refused_by_name_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_of(range(40)))
    strict = Transform(Buckets(16, 2, ratio=1.5, beyond="refuse"))
    with pytest.raises(ValueError, match=r"\d\.png with 64x36 pixels is longer than 1.5:1"):
        next(Loader(stream_of(tmp_path), 4, seed=0, transform=strict).batches())


def test_a_mixture_of_streams_in_buckets_keeps_its_weights_and_goes_on(
    tars: Path, tmp_path: Path
) -> None:
    for shard in range(2):
        numbers = range(1000 + shard * EACH, 1000 + (shard + 1) * EACH)
        (tmp_path / f"{shard}.tar").write_bytes(tar_of(numbers))

    def some(count: int, position: int = 0, rank: int = 0, world: int = 1) -> list[tuple]:
        each = (WebDataset(root, shuffle_buffer=24) for root in (tars, tmp_path))
        dataset = Mixture(*each, weights=(2.0, 1.0)).build()
        loader = Loader(dataset, 4 * world, seed=3, transform=TRANSFORM)
        return [told(batch) for batch in islice(loader.batches(position, rank, world, 4), count)]

    alone = some(120)
    assert some(40, position=4 * 80) == alone[80:]
    assert some(12, position=4 * 40) == alone[40:52]
    captions = [int(c) for _, each, _, _ in alone for c in each]
    assert sum(c >= 1000 for c in captions) == pytest.approx(len(captions) / 3, rel=0.2)
    for shape, each, _, _ in alone:
        assert {CROP.nearest(*tiny.MIXED[int(c) % len(tiny.MIXED)])[::-1] for c in each} == {
            shape[2:]
        }
    assert some(6, rank=0, world=2) != some(6, rank=1, world=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_bug_a_broken_picture_alone_in_its_bucket_stopped_the_run(
    tmp_path: Path, workers: int
) -> None:
    """A picture of the room is cropped to it."""
    (tmp_path / "0.tar").write_bytes(tar_of([*range(2, 122, 6), 3], broken=(3,)))
    with pytest.warns(UserWarning, match=r"3\.png"):
        found = drawn(tmp_path, 20, workers=workers)
    assert not any("3" in captions for _, captions, _, _ in found)
    assert {shape[2:] for shape, *_ in found} == {(16, 16), CROP.nearest(64, 36)[::-1]}


class Far(Record):
    """At a URL, at which there is nothing, or first a time-out."""

    left = 1

    def contents(self):
        if self.name == "gone":
            raise BrokenImage("gone: there is nothing at its URL")
        if Far.left:
            Far.left -= 1
            raise TimeoutError("busy")
        file = BytesIO()
        Image.new("RGB", (64, 36)).save(file, "PNG")
        return file.getvalue()


def test_bug_one_picture_that_was_not_at_its_url_stopped_a_stream_in_buckets(monkeypatch) -> None:
    """And so did one that was slow once."""
    waited: list[float] = []
    monkeypatch.setattr(remote, "PATIENCE", remote.Patience(sleep=waited.append))
    reader = Reader("skip", "some", warns=False)
    assert measured(Far("http://a/b.png", "gone", ""), CROP, reader) is None
    assert list(reader.skipped) == ["gone"] and not waited
    found = measured(Far("http://a/c.png", "slow", ""), CROP, reader)
    assert found and found[1] == CROP.nearest(64, 36) and isinstance(found[0].file, bytes)
    assert len(waited) == 1
    with pytest.raises(BrokenImage):
        measured(Far("http://a/b.png", "gone", ""), CROP, Reader("stop", "some"))


@pytest.mark.parametrize("count", [None, 30])
def test_bug_ranks_each_decoded_the_whole_of_a_pass_in_buckets(
    tars: Path, monkeypatch: pytest.MonkeyPatch, count: int | None
) -> None:
    """And whatever was asked for, all of it was read."""
    decoded: list[str] = []
    decode = Reader.decode
    monkeypatch.setattr(Reader, "decode", lambda *some: decoded.append("") or decode(*some))

    def own(rank: int, world: int) -> list[tuple[int, Batch]]:
        state = SimpleNamespace(process_index=rank, num_processes=world)
        monkeypatch.setattr(passes, "processes", lambda: state)
        return [*own_turns(stream_of(tars), 4, TRANSFORM, count=count)]

    whole = own(0, 1)
    rows = sorted(row for _, batch in whole for row in batch["row"])
    assert rows == [*range(count or N)] and len(decoded) == len(rows)
    decoded.clear()
    ranks = [*own(0, 3), *own(1, 3), *own(2, 3)]
    assert len(decoded) == len(rows)
    assert [first for first, _ in whole] == [4 * number for number in range(len(whole))]
    for (first, batch), (other, alone) in zip(sorted(ranks, key=itemgetter(0)), whole, strict=True):
        assert first == other and told(batch) == told(alone)
