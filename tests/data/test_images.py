import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from calotype.data import BrokenImage, Decoding, read_image
from calotype.data.reading.images import decode

GREY_16 = np.array([[0, 32896, 65535]], dtype=np.uint16)
"""Black, 128 of 255, white."""

GREYS = [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes | Image.Image) -> list[tuple[int, ...]]:
    image = read_image(data, "x")
    assert image.mode == "RGB"
    return [tuple(p) for p in np.asarray(image).reshape(-1, 3).tolist()]


def palette(transparent: bool) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return encoded(image, transparency=0) if transparent else encoded(image)


def png_16(values: list[int], colour: int, transparent: list[int] | None = None) -> bytes:
    """Encode one row of 16-bit values, which Pillow cannot write; colour 0 is grey, 2 is RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    width = len(values) // (3 if colour == 2 else 1)
    header = struct.pack(">IIBBBBB", width, 1, 16, colour, 0, 0, 0)
    clear = transparent or []
    parts = [
        chunk(b"IHDR", header),
        chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b"",
        chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff_12(values: tuple[int, int]) -> bytes:
    """Encode two 12-bit greys side by side in an uncompressed TIFF."""
    a, b = values
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()]
    pixels = bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255, 0])
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 12) + pixels + directory


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (palette(False), [(255, 0, 0), (0, 0, 255)]),
        (palette(True), [(255, 255, 255), (0, 0, 255)]),
        (encoded(Image.new("L", (1, 1), 7)), [(7, 7, 7)]),
        (encoded(Image.new("LA", (1, 1), (0, 0))), [(255, 255, 255)]),
        (encoded(Image.new("1", (1, 1), 1)), [(255, 255, 255)]),
        (encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 255))), [(255, 0, 0)]),
        (encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51))), [(204, 204, 204)]),
        (encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)), [(255, 255, 255)]),
        (encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [(255, 0, 0)]),
        (encoded(Image.fromarray(GREY_16)), GREYS),
        (encoded(Image.fromarray(GREY_16.astype(np.int32)), "TIFF"), GREYS),
        (Image.fromarray(np.array([[-5, 2**31 - 1]], np.int32)), [(0,) * 3, (255,) * 3]),
        (encoded(Image.fromarray(GREY_16.astype(np.float32) / 65535), "TIFF"), GREYS),
        (png_16([0, 32896, 65535], 0), GREYS),
        (png_16([0, 32896, 65535], 0, [0]), [(255,) * 3, *GREYS[1:]]),
        (png_16([0, 32896, 65535, 65535, 0, 257], 2), [(0, 128, 255), (255, 0, 1)]),
        (png_16([0, 0, 0, 65535, 0, 257], 2, [0, 0, 0]), [(255, 255, 255), (255, 0, 1)]),
        (tiff_12((0, 4095)), [GREYS[0], GREYS[2]]),
        (tiff_12((2056, 0)), [GREYS[1], GREYS[0]]),
    ],
    ids="palette palette-transparent L LA 1 RGBA half-clear RGB-tRNS CMYK I;16 I I-32 F png-16 "
    "png-16-tRNS RGB-16 RGB-16-tRNS tiff-12 tiff-12-half".split(),
)  # fmt: skip
def test_every_kind_becomes_rgb(data: bytes | Image.Image, expected: list[tuple[int, ...]]) -> None:
    assert pixels(data) == expected


def test_cmyk_jpeg() -> None:
    (r, g, b), *_ = pixels(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert r > 245 and g < 10 and b < 10


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (1, 1), colour) for colour in ("red", "blue")]
    assert pixels(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == [
        (255, 0, 0)
    ]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    image, exif = Image.new("RGB", (24, 16)), Image.Exif()
    image.paste("red", (0, 8, 8, 16))
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    upright, stored = read_image(data, "x"), Image.open(BytesIO(data))
    assert upright.size == ((24, 16) if orientation < 5 else (16, 24))
    # Where the red corner, stored at the left of the bottom row, belongs by the EXIF standard.
    right, bottom = upright.width - 4, upright.height - 4
    corner = {
        1: (4, bottom), 2: (right, bottom), 3: (right, 4), 4: (4, 4),
        5: (right, 4), 6: (4, 4), 7: (4, bottom), 8: (right, bottom),
    }[orientation]  # fmt: skip
    assert upright.getpixel(corner)[0] > 200  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]
    assert np.array_equal(upright, ImageOps.exif_transpose(stored).convert("RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_bug_a_good_picture_with_damaged_exif_was_broken(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise(), kind, exif=exif)
    damaged = data.replace(b"MM\0*\0\0\0\x08", b"XX\0*\0\0\0\x08")
    assert damaged != data
    assert np.array_equal(read_image(damaged, "x"), read_image(encoded(noise(), kind), "x"))


def test_bug_an_avif_with_damaged_exif_was_broken() -> None:
    """Pillow reads it when it opens one, and takes it for none; how it is turned stands apart."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    data = encoded(noise().crop((0, 0, 64, 32)), "AVIF", exif=exif)
    damaged = data.replace(b"MM\0*\0\0\0\x08", b"XX\0*\0\0\0\x08")
    assert damaged != data and read_image(data, "x").size == (32, 64)
    assert np.array_equal(read_image(damaged, "x"), read_image(data, "x"))


def test_bug_exif_that_cannot_be_written_again() -> None:
    """Bug: what sets a picture upright by its EXIF also wrote that anew, and failed on odd tags."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    data = encoded(noise(), "JPEG", exif=exif)
    tag = data.index(b"\x01\x1a\0\x05")
    odd = data[:tag] + b"\x01\x0f\0\x05" + data[tag + 4 :]  # a maker that is a fraction
    assert np.array_equal(read_image(odd, "x"), read_image(data, "x"))


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no bytes"),
        (b"<html>not found</html>", "a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "none of the formats"),
        (encoded(noise(), "JPEG")[:900], "truncated"),
        (encoded(noise())[:900], "truncated"),
        (Image.fromarray(np.array([[np.nan]], np.float32)), "mode F"),
    ],
)
def test_broken_names_file_and_reason_in_one_line(data: bytes | Image.Image, reason: str) -> None:
    with pytest.raises(BrokenImage, match=rf"some/file\.jpg: .*{reason}") as caught:
        read_image(data, "some/file.jpg")
    assert "\n" not in str(caught.value)


def test_too_large_is_refused_before_it_is_decoded() -> None:
    data = encoded(Image.new("1", (200, 100)))
    with pytest.raises(BrokenImage, match=r"bomb: 200x100 pixels, at most 19999"):
        read_image(data, "bomb", max_pixels=19_999)
    assert read_image(data, "fits", max_pixels=20_000).size == (200, 100)


def test_a_missing_file_is_named_and_is_no_broken_picture(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file.*gone\.png"):
        read_image(tmp_path / "gone.png", "gone.png")


def test_pillows_own_limit_holds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(Image.new("1", (20, 20)))
    with pytest.raises(BrokenImage, match=r"bomb: .*400 pixels.*decompression bomb") as caught:
        read_image(data, "bomb")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", (204,)), ("RGB", (204, 204, 204)), ("RGBA", (0, 0, 0, 51))]
)
def test_transparency_is_kept_where_it_has_a_place(mode, expected: tuple[int, ...]) -> None:
    image = read_image(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51))), "x", Decoding(mode))
    assert image.mode == mode
    assert np.asarray(image).ravel().tolist() == list(expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_kind_becomes_every_mode(mode, stored: str) -> None:
    decoded = read_image(Image.new(stored, (2, 3)), "x", Decoding(mode))
    assert decoded.mode == mode and decoded.size == (2, 3)


def smooth(width: int, height: int) -> Image.Image:
    """A picture without details that a smaller one could not show; its corners differ."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    return Image.fromarray(np.uint8(255 * np.stack([x, y, (x + y) / 2], -1)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(96, 64), (101, 67), (104, 67)])
@pytest.mark.parametrize("by", [1, 2, 4, 8])
def test_a_jpeg_may_be_decoded_smaller(orientation: int, size: tuple[int, int], by: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(*size), "JPEG", exif=exif, quality=95)
    asked: list[tuple[int, int]] = []

    def reduction(width: int, height: int) -> int:
        asked.append((width, height))
        return by

    whole = read_image(data, "x")
    image, full, reduced, _ = decode(data, "x", Decoding(reduction=reduction))
    assert asked == [whole.size] and full == whole.size
    assert reduced == by or (orientation != 1 and reduced < by)
    # Each pixel is the mean of those whose place it has in the whole picture.
    wide, high = (length // reduced for length in full)
    cells = np.asarray(whole, float)[: high * reduced, : wide * reduced]
    means = cells.reshape(high, reduced, wide, reduced, 3).mean((1, 3))
    assert abs(np.asarray(image, float)[:high, :wide] - means).max() < 4


def test_what_is_no_jpeg_is_decoded_whole() -> None:
    decoded = decode(encoded(smooth(64, 32)), "x", Decoding(reduction=lambda w, h: 8))
    assert decoded.image.size == decoded.size == (64, 32) and decoded.reduction == 1
