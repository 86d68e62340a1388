from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calotype.data import Folder, OnError, Pictures, Record
from calotype.data import Reader as PictureReader
from calotype.data import sizes as module
from calotype.data.images import FORMATS, BrokenImage
from calotype.data.sizes import size_of, sizes

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
    monkeypatch.setattr(module, "MANY", 10)
    monkeypatch.setattr(module, "LOOKED_AT", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    read: list[str] = []
    real = module.size_of
    monkeypatch.setattr(module, "size_of", lambda r: (read.append(r.name), real(r))[1])
    first = sizes(pictures(folder))
    assert len(read) == 20
    read.clear()
    assert np.array_equal(sizes(Folder(folder).build()), first) and len(read) == 4
    Image.new("RGB", (99, 20)).save(folder / "10.png")
    assert sizes(Folder(folder).build())[10].tolist() == [99, 20]
