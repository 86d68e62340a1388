"""Filters keep what fits and name what does not; nothing is lost between the two."""

import os
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from calotype.data import (
    CenterCrop,
    Filtered,
    Folder,
    Loader,
    Parquet,
    Pictures,
    Reader,
    Record,
    Transform,
    WebDataset,
)
from calotype.data.filters import FilteredPictures
from calotype.data.reading import looks
from calotype.data.reading.looks import alike, look, size_of


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "home"))
    return tmp_path / "home"


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def photograph(seed: int, size: tuple[int, int] = (48, 40), details: int = 5) -> Image.Image:
    """Smooth, as photographs are."""
    levels = np.random.default_rng(seed).integers(0, 256, (details, details, 3), np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


SIDES = st.integers(1, 12)
PICTURES = st.lists(st.tuples(SIDES, SIDES, st.integers(0, 5)), min_size=1, max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PICTURES, st.none() | SIDES, st.none() | st.floats(1, 4), st.none() | st.integers(0, 4))
def test_what_is_left_and_what_is_removed_are_all_that_was_listed(sizes, side, ratio, words):
    records = [Record(Image.new("RGB", (w, h)), f"{i}", " ".join("a" * n))
               for i, (w, h, n) in enumerate(sizes)]  # fmt: skip
    spec = Filtered(Folder("some"), side, ratio, None if words is None else (words, 4))
    source = Pictures(records, Reader("stop", "some"))

    def fits(width: int, height: int, said: int) -> bool:
        return ((side is None or min(width, height) >= side)
                and (ratio is None or max(width, height) <= ratio * min(width, height))
                and (words is None or words <= said <= 4))  # fmt: skip

    fit = [str(i) for i, size in enumerate(sizes) if fits(*size)]
    if not fit:
        with pytest.raises(ValueError, match="nothing is left; choose wider bounds"):
            FilteredPictures(source, spec)
        return
    left = FilteredPictures(source, spec)
    assert [record.name for record in left.records] == fit
    removed = [name for places in left.removed.values() for name in left.names(places)]
    assert sorted([*fit, *removed]) == sorted(record.name for record in records)
    told = "\n".join(left.lines())
    assert f"{len(fit)} of {len(sizes)} pictures are left" in told
    assert all(f"removed: {len(p)}, {why}" in told for why, p in left.removed.items())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 255)), max_size=25),
       st.data(), st.integers(0, 8))  # fmt: skip
def test_what_looks_alike_is_what_comparing_all_would_find(seen, data, apart):
    for value, colour in list(seen):  # and some that are hardly apart
        flips = data.draw(st.lists(st.integers(0, 63), max_size=9, unique=True))
        seen.append((value ^ sum(1 << flip for flip in flips), colour))
    rows = [(value - 2**64 * (value >> 63), c, c, c) for value, c in seen]
    kept: list[int] = []
    expected = {}
    for i, (value, colour) in enumerate(seen):
        near = [j for j in kept if (seen[j][0] ^ value).bit_count() <= apart
                and abs(seen[j][1] - colour) <= looks.COLOUR]  # fmt: skip
        if near:
            expected[i] = near[0]
        else:
            kept.append(i)
    assert alike(np.asarray(rows, np.int64).reshape(-1, 4), apart) == expected


def test_the_hash_is_the_fields_and_knows_colours():
    imagehash = pytest.importorskip("imagehash")
    for seed in range(12):
        image = photograph(seed, (64, 64), 16)
        theirs = imagehash.phash(image).hash.flatten()
        ours = np.unpackbits(np.array([look(image)[0]], ">i8").view(np.uint8))
        assert (theirs != ours).sum() <= 2
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    assert not alike(np.asarray([look(red), look(blue)], np.int64), 16)


def test_copies_of_other_sizes_and_kinds_are_removed_and_named(tmp_path, capsys):
    """And what was found once is not decoded again."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        photograph(i).save(folder / f"{i}.png")
    photograph(2).resize((96, 80), Image.Resampling.BICUBIC).save(folder / "2 large.png")
    photograph(4).save(folder / "4 again.jpg", quality=80)
    (folder / "torn.png").write_bytes(b"torn")
    spec = Filtered(Folder(folder), duplicates=4)
    left = spec.build()
    assert isinstance(left, FilteredPictures)
    (why, places), *others = left.removed.items()
    assert not others and why == "like another"
    # Sorted, "2 large" stands before "2.png": the first of each stays.
    assert [Path(name).name for name in left.names(places)] == ["2.png", "4.png"]
    assert {Path(r.name).name for r in left.records} >= {"torn.png", "2 large.png", "4 again.jpg"}
    said = capsys.readouterr().err
    assert "7 of 9 pictures are left" in said and "2.png is like" in said


def test_what_was_measured_is_kept_until_a_picture_changes(tmp_path, monkeypatch, home):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        photograph(i).save(folder / f"{i}.bmp")
    measured: list[str] = []

    def counted(record: Record) -> tuple[int, ...]:
        measured.append(record.name)
        return size_of(record)

    monkeypatch.setattr("calotype.data.filters.size_of", counted)
    spec = Filtered(Folder(folder), least_side=40)
    names = [len(spec.build().records) for _ in range(2)]  # pyright: ignore
    assert names == [3, 3] and len(measured) == 3
    photograph(0, (40, 48)).save(folder / "0.bmp")  # of as many bytes
    os.utime(folder / "0.bmp", ns=(1, 1))
    spec.build()
    assert len(measured) == 6
    for file in home.iterdir():
        file.write_bytes(b"torn")
    spec.build()
    assert len(measured) == 9 and {file.parent for file in home.rglob("*")} == {home}
    assert sorted(file.name for file in folder.iterdir()) == ["0.bmp", "1.bmp", "2.bmp"]


def table(path: Path) -> Path:
    images = [encoded(photograph(i, (10 + 2 * i, 12))) for i in range(6)]
    captions = ["a", "a b", "a b c", "", "a b", "a b c d"]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "caption": captions}), path)
    return path


def test_a_stream_is_filtered_as_it_is_read(tmp_path):
    source = Parquet(table(tmp_path / "rows.parquet"), streaming=True, shuffle_buffer=2)
    bounds = {"least_side": 12, "words": (2, 3)}
    stream, whole = Filtered(source, **bounds).build(), Filtered(Parquet(source.path), **bounds)
    captions = [record.caption for record in stream.records()]  # pyright: ignore
    assert captions == [r.caption for r in whole.build().records] == ["a b", "a b c", "a b"]  # pyright: ignore
    crop = Transform(CenterCrop(4))
    shuffled = [next(Loader(stream, 3, seed=seed, transform=crop).batches())["caption"]
                for seed in (1, 1, 2)]  # fmt: skip
    assert shuffled[0] == shuffled[1] and sorted(shuffled[2]) == sorted(captions)
    assert "words (2, 3)" in stream.identity()  # pyright: ignore
    with pytest.raises(ValueError, match="duplicates are not found in a stream"):
        Filtered(source, duplicates=0).build()


def test_bug_a_filtered_tar_was_waited_for_for_ever(tmp_path):
    """It kept the lanes of a tar whose lengths are known, of which most had no part."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for i in range(6):
            for ending, content in (("png", encoded(photograph(i, (16, 16)))), ("txt", b"a b")):
                member = tarfile.TarInfo(f"{i}.{ending}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
    stream = Filtered(WebDataset(tmp_path / "x.tar"), words=(2, 3)).build()
    batch = next(Loader(stream, 6, seed=0, transform=Transform(CenterCrop(4))).batches())
    assert len(batch["caption"]) == 6


def test_of_several_captions_those_that_fit_are_left():
    records = [Record(Image.new("RGB", (4, 4)), "a", "one", ("one", "one two", "one two three"))]
    left = FilteredPictures(Pictures(records, Reader("stop", "x")), Filtered(words=(2, 3)))
    assert left.records[0].texts == ("one two", "one two three")
    assert left[0]["caption"] == "one two"


@pytest.mark.parametrize(
    ("bounds", "said"),
    [({"least_side": 0}, "data.least_side is 0"), ({"greatest_ratio": 0.5}, "at least 1"),
     ({"words": (3, 2)}, r"data.words is \(3, 2\)"), ({"duplicates": 17}, "choose 16"),
     ({"duplicates": -1}, "at least 0")],
)  # fmt: skip
def test_bounds_that_cannot_be_are_said(bounds, said):
    with pytest.raises(ValueError, match=said):
        Filtered(**bounds)
