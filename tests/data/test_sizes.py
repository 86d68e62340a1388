import os
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from calotype.data import Buckets, Folder, OnError, Parquet, Pictures, Record, WebDataset
from calotype.data import Reader as PictureReader
from calotype.data.aspect import sizes as module
from calotype.data.aspect.bucketed import Bucketed
from calotype.data.aspect.sizes import sizes
from calotype.data.mixtures import MixedPictures
from calotype.data.pictures import spread
from calotype.data.reading import looks, remote
from calotype.data.reading.formats import extra_formats
from calotype.data.reading.images import FORMATS, BrokenImage
from calotype.data.reading.inspection import header_of
from calotype.data.reading.looks import size_of
from calotype.data.reading.remote import Patience


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "home"))


ORIENTED = {"JPEG", "PNG", "TIFF", "WEBP", "AVIF"} & set(FORMATS)


def encoded(kind: str, orientation: int | None = None) -> bytes:
    image, file = Image.new("RGB", (12, 20), "red"), BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    options = {"exif": exif} if orientation is not None else {}
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", sorted(ORIENTED))
def test_a_header_says_the_size_of_the_upright_picture(kind: str, orientation: int) -> None:
    record = Record(encoded(kind, orientation), kind, "")
    assert size_of(record) == record.decode()["image"].size


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"AVIF"}))
def test_every_format_has_its_size(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "picture"
    file.write_bytes(encoded(kind))
    assert size_of(Record(file, kind, "")) == (12, 20)


def test_a_png_whose_orientation_follows_its_pixels() -> None:
    data = encoded("PNG", 6)
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    late = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    record = Record(late, "late", "")
    assert record.decode()["image"].size == (20, 12) == size_of(record)


def pictures(folder: Path, count: int = 20) -> Pictures:
    for i in range(count):
        Image.new("RGB", (10 + i, 20)).save(folder / f"{i:02d}.png")
    return Folder(folder).build()


def test_no_pixel_is_read(tmp_path: Path) -> None:
    """Headers alone: pictures cut off behind them have sizes."""
    for file in (Path(r.name) for r in pictures(tmp_path).records):
        file.write_bytes(file.read_bytes()[:60])
    assert sizes(Folder(tmp_path).build()).tolist() == [[10 + i, 20] for i in range(20)]


@pytest.mark.parametrize("on_error", ["skip", "stop"])
def test_a_broken_header_obeys_the_policy(on_error: OnError) -> None:
    records = [Record(encoded("PNG"), "good", ""), Record(b"nothing", "bad", "")]
    dataset = Pictures(records, PictureReader(on_error, "two"))
    if on_error == "stop":
        with pytest.raises(BrokenImage, match="cannot read picture bad"):
            sizes(dataset)
        return
    with pytest.warns(UserWarning, match="skipped .*cannot read picture bad"):
        assert sizes(dataset).tolist() == [[12, 20], [0, 0]]
    assert list(dataset.reader.skipped) == ["bad"]


def test_sizes_of_many_are_kept_until_the_pictures_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    read = counted(monkeypatch)
    first = sizes(pictures(folder))
    assert len(read) == 20 and list((tmp_path / "home").glob("sizes-*.safetensors"))
    read.clear()
    assert np.array_equal(sizes(Folder(folder).build()), first) and not read
    Image.new("RGB", (99, 20)).save(folder / "10.png")
    assert sizes(Folder(folder).build())[10].tolist() == [99, 20]


def test_bug_each_start_asked_for_the_time_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many a few are asked; whose size is another than was kept is told when it is met."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    records, read = pictures(folder).records, counted(monkeypatch)
    asked: list[Path | str] = []
    stamp_of = looks.stamp_of
    monkeypatch.setattr(looks, "stamp_of", lambda path: asked.append(path) or stamp_of(path))

    def bucketed(stamped: int | None = 5) -> Bucketed:
        known = Pictures(records, PictureReader("skip", "folder"), lambda: "the same")
        return Bucketed(known, Buckets(16, 2), sizes(known, stamped))

    bucketed()
    asked.clear()
    read.clear()
    Image.new("RGB", (99, 20)).save(folder / "03.png")
    found = bucketed()
    assert len(asked) == 5 and not read
    assert [found[i]["shape"] for i in (0, 19)]
    with pytest.warns(UserWarning, match="03.png: it was replaced since its size was kept"):
        assert found.read_one(3)
    asked.clear()
    assert bucketed(stamped=None).shape(3).ratio > 1.5 and len(asked) == 20  # a cache's
    Image.new("RGB", (99, 20)).save(folder / "04.png")
    assert bucketed().shape(3).ratio > 1.5 and read  # of those that are asked one is another


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that are measured from now on; ten are many."""
    read: list[str] = []
    monkeypatch.setattr(module, "MANY", 10)
    monkeypatch.setattr(module, "size_of", lambda r: (read.append(r.name), size_of(r))[1])
    return read


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_a_format_of_an_extra_is_not_broken(kind: str) -> None:
    pytest.importorskip({"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[kind])
    extra_formats()
    record = Record(encoded(kind), kind, "")
    assert size_of(record) == (12, 20)
    assert sizes(Pictures([record], PictureReader("stop", "one"))).tolist() == [[12, 20]]


def test_a_picture_is_not_broken_by_what_stands_beside_its_pixels() -> None:
    text, file = PngInfo(), BytesIO()
    text.add_text("novel", "a" * 2**21, zip=True)  # more than Pillow unpacks
    Image.new("RGB", (12, 20)).save(file, "PNG", pnginfo=text)
    with pytest.raises(ValueError, match="too large"):
        Image.open(BytesIO(file.getvalue()))
    record = Record(file.getvalue(), "novel", "")
    assert size_of(record) == (12, 20)
    # Bug: `calotype data` took it for a drawn one, of no bytes.
    header = header_of(record)
    assert (header.kind, header.size, header.bytes) == ("PNG", (12, 20), len(file.getvalue()))


def test_a_server_that_fails_once_is_no_broken_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error without a number, as of aiohttp, was taken for the picture's."""
    tries: list[str] = []

    def busy(url: str) -> bytes:
        tries.append(url)
        if len(tries) < 3:
            raise TimeoutError
        return encoded("PNG")

    monkeypatch.setattr("calotype.data.reading.records.contents", busy)
    monkeypatch.setattr(remote, "PATIENCE", Patience(sleep=lambda _: None))
    dataset = Pictures([Record("https://a/b.png", "b", "")], PictureReader("skip", "web"))
    assert sizes(dataset).tolist() == [[12, 20]] and not dataset.reader.skipped
    monkeypatch.setattr("calotype.data.reading.records.contents", failing)
    again = Pictures([Record("https://a/c.png", "c", "")], PictureReader("skip", "web"))
    with pytest.raises(OSError, match="c cannot be read, tried 5 times"):
        sizes(again)


def failing(url: str) -> bytes:
    raise TimeoutError


def test_a_file_that_is_gone_is_no_broken_picture(tmp_path: Path) -> None:
    dataset = pictures(tmp_path, 3)
    (tmp_path / "01.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"01\.png cannot be read"):
        sizes(dataset)


def test_what_was_broken_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros that are kept are believed of no picture."""
    counted(monkeypatch)
    files = tmp_path / "files"
    files.mkdir()
    dataset = pictures(files)
    records = [dataset.records[i]._replace(stamp="always") for i in range(20)]
    whole = (files / "03.png").read_bytes()

    def again() -> Pictures:
        return Pictures(records, PictureReader("skip", "some"), lambda: "known")

    (files / "03.png").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="skipped"):
        assert sizes(again())[3].tolist() == [0, 0]
    (files / "03.png").write_bytes(whole)
    assert sizes(again())[3].tolist() == [13, 20]


@pytest.mark.parametrize("kind", ["table", "tar", "extents"])
def test_a_table_of_as_many_bytes_has_sizes_of_its_own(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, file = counted(monkeypatch), tmp_path / f"pictures.{kind}"

    def written(width: int, time: int) -> Pictures:
        images = [Image.new("RGB", (width, 20 + i)) for i in range(12)]
        if kind == "table":
            table(file, images)
        else:
            tar(file, images)
        os.utime(file, ns=(time, time))
        if kind == "table":
            found = Parquet(file).build()
        else:
            found = WebDataset(file, caption_key=None, streaming=False).build()
        assert isinstance(found, Pictures)
        if kind == "extents":  # as those that a filter has left
            found = Pictures([*found.records], found.reader, lambda: "known")
        return found

    first = sizes(written(30, 1))
    assert np.array_equal(first, sizes(written(30, 1))) and len(read) == 12
    assert sizes(written(31, 2))[:, 0].tolist() == [31] * 12


def table(file: Path, images: list[Image.Image]) -> None:
    column = [in_bytes(image) for image in images]
    pyarrow.parquet.write_table(pyarrow.table({"image": column, "caption": [""] * 12}), file)


def tar(file: Path, images: list[Image.Image]) -> None:
    with tarfile.open(file, "w") as members:
        for i, image in enumerate(images):
            data, member = in_bytes(image), tarfile.TarInfo(f"{i:02}.png")
            member.size = len(data)
            members.addfile(member, BytesIO(data))


def in_bytes(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_of_what_nothing_tells_from_others_no_sizes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of such, or a mixture, was taken for known."""
    counted(monkeypatch)
    records = [Record(encoded("PNG"), f"{i}", "", stamp="1") for i in range(40)]
    unknown = Pictures(records, PictureReader("stop", "hub"))
    part = spread(unknown, 20)
    assert isinstance(part, Pictures) and not part.is_known
    mixed = MixedPictures([unknown, Pictures(records, unknown.reader, lambda: "known")])
    assert not mixed.is_known and not (tmp_path / "home").exists()
    for dataset in (unknown, part, mixed, spread(mixed, 20)):
        sizes(dataset)
    assert not (tmp_path / "home").exists()
    known = spread(Pictures(records, unknown.reader, lambda: "known"), 20)
    assert isinstance(known, Pictures) and known.is_known


def test_the_header_of_a_part_is_not_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both go by one identity."""
    counted(monkeypatch)
    records = [Record(in_bytes(Image.new("RGB", (9 + i, 9))), f"{i}", "", stamp="1")
               for i in range(20)]  # fmt: skip
    whole = Pictures(records, PictureReader("stop", "some"), lambda: "known")
    assert sizes(whole)[:, 0].tolist() == [9 + i for i in range(20)]
    assert sizes(spread(whole, 10))[:, 0].tolist() == [9 + 2 * i for i in range(10)]
