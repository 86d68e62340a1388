from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from calotype.data import BrokenImage, read_image

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
    ],
    ids="palette palette-transparent L LA 1 RGBA half-clear RGB-tRNS CMYK I;16 I I-32 F".split(),
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


def test_exif_orientation_is_applied(tmp_path) -> None:
    image, exif = Image.new("RGB", (3, 2)), Image.Exif()
    exif[0x0112] = 6
    image.putpixel((0, 1), (255, 0, 0))
    image.save(tmp_path / "x.png", exif=exif)
    upright = read_image(tmp_path / "x.png", "x")
    assert upright.size == (2, 3)
    assert upright.getpixel((0, 0)) == (255, 0, 0)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no bytes"),
        (b"<html>not found</html>", "none of the formats"),
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


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(BrokenImage, match="No such file"):
        read_image(tmp_path / "gone.png", "gone.png")
