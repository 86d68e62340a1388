import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from calotype.data import BrokenImage, Folder, read_image
from calotype.data.reading import formats as known
from calotype.data.reading.formats import (
    SUFFIXES,
    UNREAD,
    extra_formats,
    looks_like_picture,
    passed_over,
    size_of_jxl,
)

y, x = np.mgrid[:40, :64] * 4
SMOOTH = Image.fromarray(np.uint8(np.stack([x, y, 255 - x], -1)))
"""64x40; its corners differ."""


def encoded(kind: str, **options) -> bytes:
    file = BytesIO()
    SMOOTH.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def extras() -> None:
    for extra in known.EXTRAS:
        pytest.importorskip(extra.module)
    extra_formats()


@pytest.mark.parametrize(("kind", "ending"), [("HEIF", ".heic"), ("JXL", ".jxl"), ("TIFF", ".tif")])
def test_photographs_of_newer_formats_are_read(extras, tmp_path, kind: str, ending: str) -> None:
    (tmp_path / f"a{ending}").write_bytes(encoded(kind, quality=95))
    (example,) = Folder(tmp_path).build()
    assert ending in SUFFIXES
    assert example["image"].mode == "RGB" and example["image"].size == SMOOTH.size
    assert abs(np.asarray(example["image"], float) - np.asarray(SMOOTH, float)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_set_upright_once(extras, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = read_image(encoded("PNG", exif=exif), "x")
    found = read_image(encoded("HEIF", quality=95, exif=exif.tobytes()), "x")
    assert found.size == expected.size
    assert abs(np.asarray(found, float) - np.asarray(expected, float)).mean() < 4


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_within_a_jpeg_xl_is_set_upright(extras, tmp_path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = encoded("JPEG", quality=95, exif=exif)
    file = BytesIO()
    (tmp_path / "a.jpg").write_bytes(jpeg)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(file, "JXL", lossless_jpeg=True)
    found, expected = read_image(file.getvalue(), "x"), read_image(jpeg, "x")
    assert found.size == expected.size
    assert abs(np.asarray(found, float) - np.asarray(expected, float)).mean() < 4


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (64, 40), (1000, 750), (31, 700), (256, 256)])
@pytest.mark.parametrize("container", [False, True])
def test_a_jpeg_xl_tells_its_size_undecoded(extras, size: tuple[int, int], container: bool) -> None:
    file = BytesIO()
    Image.new("RGB", size).save(file, "JXL", use_container=container, lossless=True, effort=1)
    assert size_of_jxl(file.getvalue()) == size


def test_a_jpeg_xl_that_is_a_bomb_is_refused_undecoded(extras) -> None:
    # Not small, both sides of 30 bits: 10^9 pixels wide and high, and no data.
    bits, place = 0, 0
    for value, width in ((0, 1), (3, 2), (10**9 - 1, 30), (0, 3), (3, 2), (10**9 - 1, 30)):
        bits, place = bits | value << place, place + width
    bomb = b"\xff\x0a" + bits.to_bytes(16, "little")
    with pytest.raises(BrokenImage, match="1000000000x1000000000 pixels"):
        read_image(bomb, "x")
    with pytest.raises(BrokenImage, match="without a picture"):
        read_image(known.CONTAINER + struct.pack(">I", 9) + b"free" + bytes(40), "x")


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_without_the_extra_a_picture_says_what_reads_it(
    extras, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = encoded(kind)
    monkeypatch.setattr(known, "INSTALLED", ())
    monkeypatch.setattr("calotype.data.reading.images.extra_formats", lambda: ())
    with pytest.raises(BrokenImage, match=rf'{kind}: pip install "calotype\[formats\]" reads them'):
        read_image(data, "x")


@pytest.mark.parametrize("name", ["a.CR2", "b/c.nef", "a.dng", "x.psd", "x.svg", "a.b.tga"])
def test_what_looks_like_a_picture_and_is_not_read(name: str) -> None:
    assert looks_like_picture(name)


@pytest.mark.parametrize("name", ["a.jpg", "a.JFIF", "a.png", "a.txt", "metadata.csv", "svg", "a."])
def test_what_is_read_or_is_no_picture(name: str) -> None:
    assert not looks_like_picture(name)


def test_what_is_passed_over_is_counted_named_and_mended() -> None:
    assert passed_over(["b.nef", "a.jpg", "1.svg", "c.NEF", "d.txt"]) == [
        "passed over: 2 .nef (b.nef, ...): develop them to JPEG or PNG",
        "passed over: 1 .svg (1.svg): draw them as PNG",
    ]
    assert not SUFFIXES & UNREAD.keys()
