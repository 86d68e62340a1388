import json
import os
import tarfile
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calotype.data import Pictures, Record, Stream, WebDataset
from calotype.data.archives.tars import Endings, Index, grouped, indexed
from calotype.data.pictures import captions_of_all
from calotype.data.reading.paths import expanded, files_of, natural

ENDINGS = Endings(("jpg", "png"), "txt", "caption", "empty")
READ = pytest.mark.parametrize("how", ["on disk", "at random", "at a URL", "compressed"])


def png(shade: int = 0) -> bytes:
    file = BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_tar(file: Path, *members: tuple[str, bytes], **options: Any) -> Path:
    with tarfile.open(file, options.pop("mode", "w"), **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return file


def read(tar: Path, how: str, **options: Any) -> list[tuple[int, str]]:
    """Shade and caption of each picture."""
    dataset = built(tar, how, **options)
    each = dataset if isinstance(dataset, Stream) else map(dataset.__getitem__, range(len(dataset)))
    return [(e["image"].getpixel((0, 0))[0], e["caption"]) for e in each]  # type: ignore[index]


def built(tar: Path, how: str, **options: Any) -> Pictures | Stream:
    if how == "compressed":
        packed = tar.with_name(f"{tar.name}.gz")
        members = []
        with tarfile.open(tar) as whole:
            for member in whole:
                if member.isreg():
                    file = whole.extractfile(member)
                    members.append((member.name, file.read() if file else b""))
        tar = write_tar(packed, *members, mode="w:gz")
    path = f"file://{tar}" if how == "at a URL" else tar
    return WebDataset(path, streaming=how != "at random", **options).build()


@READ
def test_bug_columns_were_those_of_the_first_samples(tmp_path: Path, how: str) -> None:
    """Bug: of jpg and png in one set half was lost, and the rest was read twice."""
    a = write_tar(tmp_path / "a.tar", ("0.jpg", png(1)), ("0.txt", b"a jpg"), ("1.PNG", png(2)),
                  ("1.TXT", b"a png"), ("d.x/2.b.webp", b"?"), ("d.x/2.webp", png(3)),
                  ("d.x/2.txt", b"deep\n"))  # fmt: skip
    assert read(a, how) == [(1, "a jpg"), (2, "a png"), (3, "deep")]


@READ
@pytest.mark.filterwarnings("ignore:.*pictures have no .txt")
@pytest.mark.parametrize("bare", [0, 3, 7])
def test_bug_a_missing_caption_was_refused_or_not_by_its_place(
    tmp_path: Path, how: str, bare: int
) -> None:
    members = ((f"{i}.{end}", png(i) if end == "png" else f"{i}".encode())
               for i in range(8) for end in ("png", "txt"))  # fmt: skip
    tar = write_tar(tmp_path / "a.tar", *(m for m in members if m[0] != f"{bare}.txt"))
    assert read(tar, how) == [(i, "" if i == bare else str(i)) for i in range(8)]
    with pytest.raises(ValueError, match=rf"a\.tar.*:{bare}\.png: no \.txt beside it; add it, or"):
        read(tar, how, uncaptioned="refuse")
    with pytest.warns(UserWarning, match=rf"no caption in sample .*:{bare}; it has \.png"):
        assert read(tar, how, uncaptioned="skip") == [(i, str(i)) for i in range(8) if i != bare]


@READ
def test_bug_json_without_a_caption_was_a_caption(tmp_path: Path, how: str) -> None:
    """Bug: under "skip" it was read as ''; what was refused was said to have no JSON."""
    said: list[Any] = [{"caption": "zero"}, {"width": 3}, {"caption": None}, {"caption": []}]
    members = ((f"{i}.{end}", png(i) if end == "png" else json.dumps(each).encode())
               for i, each in enumerate(said) for end in ("png", "json"))  # fmt: skip
    tar = write_tar(tmp_path / "a.tar", *members, ("4.png", png(4)))
    with pytest.warns(UserWarning, match=r"no caption in sample .*:[1-4]; it has"):
        assert read(tar, how, caption_key="json", uncaptioned="skip") == [(0, "zero")]
    with pytest.raises(ValueError, match=r":1\.png: no \.json with the field caption beside it"):
        read(tar, how, caption_key="json", uncaptioned="refuse")
    if how not in ("on disk", "at random"):
        return
    with pytest.warns(UserWarning, match=r"4 of 5 pictures have no \.json with the field caption"):
        read(tar, how, caption_key="json")
    with pytest.raises(ValueError, match="no picture in it has a caption, and such are passed"):
        read(tar, how, caption_key="json", json_field="text", uncaptioned="skip")


@READ
def test_bug_of_several_captions_the_first_was_left(tmp_path: Path, how: str) -> None:
    """Bug: no other of a list in JSON was ever drawn."""
    data = json.dumps({"caption": [" one\n", "two "]}).encode()
    tar = write_tar(tmp_path / "a.tar", ("0.png", png()), ("0.json", data))
    dataset = built(tar, how, caption_key="json")
    record = next(iter(dataset.records() if isinstance(dataset, Stream) else dataset.records))
    assert (record.caption, record.captions) == ("one", ("one", "two"))


@READ
def test_a_tar_that_is_written_anew_has_other_stamps(tmp_path: Path, how: str) -> None:
    tar = write_tar(tmp_path / "a.tar", *((f"{i}.png", png(i)) for i in range(2)))
    found: list[list[str]] = []
    for time in (1, 1, 2):
        dataset = built(tar, how, caption_key=None)
        for file in tmp_path.iterdir():
            os.utime(file, ns=(time, time))
        dataset = WebDataset(dataset.reader.source.partition(" ")[2], caption_key=None,
                             streaming=how != "at random").build()  # fmt: skip
        records = dataset.records() if isinstance(dataset, Stream) else dataset.records
        found.append([record.stamp for record in records])
    assert found[0] == found[1]
    assert len({*found[0], *found[2]}) == (1 if how == "at a URL" else 4)


def test_bug_captions_were_read_with_all_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"{shard}.tar", ("0.png", png()), ("0.txt", f"{shard}".encode()))
    dataset = built(tmp_path, "at random")
    assert isinstance(dataset, Pictures)
    monkeypatch.setattr(Index, "record", lambda *_: Record(b"", "", "not read so"))
    assert list(captions_of_all(dataset.records)) == ["0", "1"]


def test_missing_captions_and_pictures_are_told(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", ("0.png", png()), ("1.png", png()), ("1.txt", b"one"),
                    ("2.txt", b"two"))  # fmt: skip
    with pytest.warns(UserWarning) as warned:
        dataset = WebDataset(tar).build()
    said = [str(each.message) for each in warned]
    assert "1 samples passed over; no picture in sample" in said[0] and ":2; it has .txt" in said[0]
    assert "1 of 2 pictures have no .txt" in said[1] and said[1].endswith(":0.png")
    assert isinstance(dataset, Stream) and len(dataset.reader.skipped) == 1


def test_streamed_samples_without_a_picture_are_told(tmp_path: Path) -> None:
    """The two halves of a sample that two tars share are two samples, as for WebDataset."""
    write_tar(tmp_path / "0.tar", ("0.png", png(1)), ("0.txt", b"zero"), ("1.png", png(2)))
    write_tar(tmp_path / "1.tar", ("1.txt", b"one"), ("2.png", png(3)), ("2.txt", b"two"))
    stream = WebDataset(f"file://{tmp_path}/{{0..1}}.tar").build()
    assert isinstance(stream, Stream)
    with pytest.warns(UserWarning, match=r"skipped \(1 so far\): no picture in sample .*1\.tar:1"):
        assert [e["caption"] for e in stream] == ["zero", "", "two"]


@READ
def test_several_pictures_a_sample(tmp_path: Path, how: str) -> None:
    first = ("0.png", png(1)), ("0.jpg", png(2)), ("0.seg.png", png(3)), ("0.txt", b"")
    other = ("1.png", png(4)), ("1.seg.png", png(5)), ("1.txt", b"")
    tar = write_tar(tmp_path / "a.tar", *first, *other)
    assert [shade for shade, _ in read(tar, how)] == [2, 4]
    assert [shade for shade, _ in read(tar, how, image_keys=("SEG.png", "jpg"))] == [3, 5]


@READ
def test_captions_of_other_kinds(tmp_path: Path, how: str) -> None:
    tar = write_tar(tmp_path / "a.tar", ("0.png", png()), ("0.cls", b"7"),
                    ("0.json", json.dumps({"text": "said", "n": 1}).encode()))  # fmt: skip
    assert read(tar, how, caption_key="cls") == [(0, "7")]
    assert read(tar, how, caption_key="json", json_field="text") == [(0, "said")]
    assert read(tar, how, caption_key=None) == [(0, "")]
    if how == "at random":  # the tests' checks of types look at a record of each sequence
        return
    for found, said in ((b"{", "not JSON"), (b"[1]", "JSON without fields; expected one called")):
        bad = write_tar(tmp_path / "bad.tar", ("0.png", png()), ("0.json", found))
        with pytest.raises(ValueError, match=rf"caption of .*bad\.tar.*:0\.png: {said}"):
            read(bad, how, caption_key="json")


@READ
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_and_members_of_other_kinds(tmp_path: Path, how: str, kind: int) -> None:
    deep = "/".join(["folder"] * 14) + "/" + "é" * 40
    tar = write_tar(
        tmp_path / "a.tar", ("__meta__", b"x"), ("._0.png", b"a macOS ghost"), (".hidden", b""),
        ("README", b""), (f"{deep}.png", png(1)), (f"{deep}.txt", b"deep"), format=kind,
    )  # fmt: skip
    with tarfile.open(tar, "a", format=kind) as more:
        folder = tarfile.TarInfo("1.png")
        folder.type = tarfile.DIRTYPE
        more.addfile(folder)
    assert read(tar, how) == [(1, "deep")]


def test_sparse_members(tmp_path: Path) -> None:
    """GNU's of version 1.0: a map of what is there, then that; the picture ends in zeros."""
    picture = png(9)
    body = f"1\n0\n{len(picture)}\n".encode().ljust(512, b"\0") + picture
    info = tarfile.TarInfo("GNUSparseFile.0/0.png")
    info.size = len(body)
    said = {"major": "1", "minor": "0", "name": "0.png", "realsize": f"{len(picture) + 4096}"}
    info.pax_headers = {f"GNU.sparse.{name}": value for name, value in said.items()}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, BytesIO(body))
        for name, data in (("0.txt", b"zero"), ("1.png", png(2)), ("1.txt", b"one")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    for how in ("on disk", "at random", "at a URL"):
        assert read(tmp_path / "a.tar", how) == [(9, "zero"), (2, "one")]


@READ
def test_two_members_of_one_name(tmp_path: Path, how: str) -> None:
    tar = write_tar(tmp_path / "a.tar", ("0.png", png()), ("0.PNG", png()), ("0.txt", b""))
    with pytest.raises(ValueError, match=r"0\.png and 0\.PNG are one member of one sample"):
        read(tar, how)


@pytest.mark.parametrize("how", ["on disk", "at random", "at a URL"])
@pytest.mark.parametrize("left", [100, 600, 512 * 3 + 100])
def test_a_tar_that_was_cut_off_is_named(tmp_path: Path, how: str, left: int) -> None:
    """Bug: one that ends within a header was read as if that were its end."""
    members = ((f"{i}.{end}", png(i)) for i in range(3) for end in ("png", "txt"))
    tar = write_tar(tmp_path / "a.tar", *members)
    tar.write_bytes(tar.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"a\.tar: broken \(.*fetch it again"):
        read(tar, how, caption_key=None)


def test_a_tar_without_its_mark_of_the_end_is_told(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", ("0.png", png(7)))
    tar.write_bytes(tar.read_bytes()[: 512 + -(-len(png(7)) // 512) * 512])
    with pytest.warns(UserWarning, match=r"a\.tar: ends without the mark"):
        assert read(tar, "on disk", caption_key=None) == [(7, "")]


def test_what_is_compressed(tmp_path: Path) -> None:
    gz = write_tar(tmp_path / "a.tgz", ("0.png", png(5)), ("0.txt", b"five"), mode="w:gz")
    assert read(gz, "on disk") == read(tmp_path, "on disk") == [(5, "five")]
    with pytest.raises(ValueError, match="compressed are read as streams alone: pass"):
        read(gz, "at random")
    gz.write_bytes(gz.read_bytes()[: gz.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a\.tgz: broken \(.*fetch it again"):
        read(gz, "on disk")
    (tmp_path / "b.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(99))
    with pytest.raises(ValueError, match=r"b\.tar\.zst: (compressed by zstd|broken)"):
        read(tmp_path / "b.tar.zst", "on disk")


def test_tars_elsewhere_are_fetched_to_be_read_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", tmp_path / "fetched")
    write_tar(tmp_path / "0.tar", ("0.png", png(5)), ("0.txt", b"five"), ("1.png", png(6)),
              ("1.txt", b"six"))  # fmt: skip
    dataset = WebDataset(f"file://{tmp_path}/*.tar", streaming=False).build()
    assert isinstance(dataset, Pictures)
    assert [dataset[i]["caption"] for i in (1, 0, -1)] == ["six", "five", "six"]


def test_braces_and_the_order_of_shards(tmp_path: Path) -> None:
    assert list(expanded("{08..10}")) == ["08", "09", "10"]
    assert list(expanded("a{1..2}-{x,y}.tar")) == ["a1-x.tar", "a1-y.tar", "a2-x.tar", "a2-y.tar"]
    names = ["99999.tar", "100000.tar", "2.tar", "a10b2.tar", "a2b10.tar"]
    assert sorted(names, key=natural) == [
        "2.tar",
        "99999.tar",
        "100000.tar",
        "a2b10.tar",
        "a10b2.tar",
    ]
    for shard in (2, 10, 9):
        write_tar(tmp_path / f"{shard}.tar", (f"{shard}.png", png(shard)), (f"{shard}.txt", b""))
    assert [shade for shade, _ in read(tmp_path, "on disk")] == [2, 9, 10]
    assert [shade for shade, _ in read(tmp_path / "{10,2}.tar", "at a URL")] == [10, 2]
    assert [shade for shade, _ in read(tmp_path / "{9..10}.tar", "at random")] == [9, 10]
    with pytest.raises(FileNotFoundError, match=r"no files .*/11\.tar: expected a \.tar"):
        files_of(tmp_path / "{9..11}.tar", ".tar")
    there = tmp_path / "data [v2] {1,2}"
    there.mkdir()
    write_tar(there / "0.tar", ("0.png", png(3)), ("0.txt", b""))
    assert [shade for shade, _ in read(there, "on disk")] == [3]


PLACES = st.sampled_from(["", "d/", "d.e/", "__m__/", ".d/"])
STEMS = st.sampled_from(["0", "1", "00", "a", "", ".", "__x__", "é"])
KINDS = st.sampled_from(["jpg", "JPG", "png", "txt", "seg.png", "json", "", "tar.gz"])
NAMES = st.lists(st.builds("{}{}.{}".format, PLACES, STEMS, KINDS), max_size=12)


@settings(max_examples=100, deadline=None)
@given(NAMES)
def test_samples_are_those_of_webdatasets_own_tools(names: list[str]) -> None:
    """Listed is read, or passed over, or refused, by name."""
    tools = pytest.importorskip("webdataset.tariterators")
    expected: Any = []
    try:
        files = [{"fname": n, "data": n, "__url__": ""} for n in names if not n.startswith("__m__")]
        expected = [{k: v for k, v in sample.items() if k != "__url__"}
                    for sample in tools.group_by_keys(files)]  # fmt: skip
    except ValueError:
        expected = "refused"
    try:
        samples = grouped(((name, name) for name in names), "a.tar")
        found: Any = [{"__key__": each.key, **{end: of[0] for end, of in each.members.items()}}
                      for each in samples]  # fmt: skip
    except ValueError as error:
        assert any(f": {name} and " in str(error) for name in names)
        found = "refused"
    assert found == expected


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["png", "jpg", "txt", "cls"])),
                unique=True, min_size=1, max_size=8))  # fmt: skip
def test_listed_is_read_or_passed_over(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]
) -> None:
    members = [(f"{key}.{ending}", f"{key} {ending}".encode()) for key, ending in names]
    tar = write_tar(tmp_path_factory.mktemp("tar") / "a.tar", *members)
    index = indexed(str(tar), ENDINGS)
    keys = [sample.key for sample in grouped(((n, n) for n, _ in members), "a.tar")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for how in (tar, f"file://{tar}"):
            read, bare = listed(str(how))
            assert sorted(read + bare) == sorted(f"{how}:{key}" for key in keys)
            assert len(read) == len(index) and len(bare) == len(index.bare)


def listed(path: str) -> tuple[list[str], list[str]]:
    """Keys of the records that a set gives, and of those that it passes over."""
    try:
        stream = WebDataset(path, image_keys=("jpg", "png"), caption_key=None).build()
    except ValueError as error:  # no picture in it
        assert "no .jpg or .png in it" in str(error)
        with tarfile.open(path) as tar:
            groups = grouped(((m.name, m) for m in tar), path)
            return [], [f"{path}:{sample.key}" for sample in groups]
    assert isinstance(stream, Stream)
    read = [record for part in range(stream.parts) for record in stream.part(part)]
    said = [each.split("sample ")[1].split(";")[0] for each in stream.reader.skipped.values()]
    return [record.name.rsplit(".", 1)[0] for record in read], said
