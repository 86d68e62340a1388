import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from calotype.data import BrokenImage, read_image
from calotype.data.reading.colour import MAX_PROFILE
from calotype.data.reading.images import decode
from calotype.data.reading.metadata import PNG, bare
from calotype.data.reading.profiles import SRGB_CURVE, matrix_profile

P3 = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8))
MIB = 2**20


def encoded(kind: str, **options) -> bytes:
    file = BytesIO()
    NOISE.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes, damage: int = 0) -> bytes:
    checksum = zlib.crc32(kind + content) ^ damage
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(*chunks: bytes, last: bool = False) -> bytes:
    """A PNG with chunks before its pixels, or behind them."""
    plain = encoded("PNG")
    place = plain.index(b"IEND" if last else b"IDAT") - 4
    return plain[:place] + b"".join(chunks) + plain[place:]


def zipped(kind: bytes, size: int) -> bytes:
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    return chunk(kind, head + zlib.compress(bytes(size)))


TOO_MUCH = {
    "one compressed text": [zipped(b"zTXt", 2 * MIB)],
    "international text": [zipped(b"iTXt", 2 * MIB)],
    "all texts together": [chunk(b"tEXt", b"a\0" + b"x" * 2 * MIB)] * 33,
    "a profile that unpacks to too much": [zipped(b"iCCP", 5 * MIB)],
    "a profile that cannot be unpacked": [chunk(b"iCCP", b"a\0\0xx")],
    "a profile cut": [chunk(b"iCCP", b"a")],
    "a damaged text": [chunk(b"tEXt", b"a\0b", damage=1)],
    "gamma without a number": [chunk(b"gAMA", b"")],
    "chromaticities cut": [chunk(b"cHRM", bytes(7))],
    "resolution cut": [chunk(b"pHYs", b"")],
    "an animation without frames": [chunk(b"acTL", b"x")],
}


@pytest.mark.parametrize("last", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("case", TOO_MUCH)
def test_bug_what_stands_beside_a_pngs_pixels_refused_it(case: str, last: bool) -> None:
    data = png_with(*TOO_MUCH[case], last=last)
    assert np.array_equal(decode(data, "x").image, NOISE)


def test_a_large_profile_is_heeded_all_the_same() -> None:
    """Pillow unpacks one MiB of it."""
    padded = matrix_profile(P3, SRGB_CURVE).ljust(MAX_PROFILE - 1, b"\0")
    data = png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(padded)))
    small = encoded("PNG", icc_profile=matrix_profile(P3, SRGB_CURVE))
    assert np.array_equal(read_image(data, "x"), read_image(small, "x"))
    assert not np.array_equal(read_image(data, "x"), NOISE)


def test_orientation_and_transparency_are_kept_beside_too_much_text() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    for i in range(33):
        text.add_text(f"a{i}", "x" * 2 * MIB)
    image = NOISE.convert("P")
    file = BytesIO()
    image.save(file, "PNG", exif=exif, transparency=3, pnginfo=text)
    found = read_image(file.getvalue(), "x")
    plain = BytesIO()
    image.save(plain, "PNG", exif=exif, transparency=3)
    assert found.size == (24, 16) and np.array_equal(found, read_image(plain.getvalue(), "x"))


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe2" + struct.pack(">H", 40) + b"MPF\0" + b"II*\0\x08\0\0\0" + bytes(26),
        b"\xff\xe2" + struct.pack(">H", 14) + b"MPF\0" + b"\xff" * 8,
        b"\xff\xed" + struct.pack(">H", 24) + b"Photoshop 3.0\x008BIM" + b"\xff" * 4,
        b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0" + b"\xff" * 12,
        b"\xff\xee" + struct.pack(">H", 8) + b"Adobe\0",
        b"\xff\xfe" + struct.pack(">H", 2**16 - 1) + bytes(2**16 - 3),
    ],
    ids=["pictures", "no-pictures", "photoshop", "exif", "adobe", "comment"],
)
@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
def test_what_stands_beside_a_jpegs_pixels_does_not_refuse_it(segment: bytes) -> None:
    plain = encoded("JPEG")
    data = plain[:20] + segment + plain[20:]
    assert np.array_equal(read_image(data, "x"), read_image(plain, "x"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG", "GIF", "AVIF"])
def test_large_metadata_of_any_format(kind: str) -> None:
    large = {
        "JPEG": {"comment": b"x" * 60_000, "xmp": b"x" * 60_000},
        "WEBP": {"exif": b"x" * 3 * MIB, "xmp": b"x" * 3 * MIB},
        "TIFF": {"description": "x" * 3 * MIB},
        "PNG": {"exif": b"Exif\0\0" + b"x" * 3 * MIB},
        "GIF": {"comment": b"x" * 3 * MIB},
        "AVIF": {"xmp": b"x" * 3 * MIB},
    }[kind]
    found, plain = (read_image(encoded(kind, **more), "x") for more in (large, {}))
    assert np.array_equal(found, plain)


@pytest.mark.parametrize("cut", [40, 200, 900])
def test_pixels_that_are_not_there_are_not_made_up(cut: int) -> None:
    data = png_with(zipped(b"zTXt", 2 * MIB))
    place = data.index(b"IDAT") + cut
    with pytest.raises(BrokenImage):
        read_image(data[:place], "x")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80))
def test_to_look_for_pixels_never_fails(tail: bytes) -> None:
    for start in (PNG, b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", encoded("PNG")[:60]):
        left = bare(start + tail)
        assert left is None or left.startswith(start[:2])
