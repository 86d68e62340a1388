import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from calotype.data import AsStored, Decoding, Pictures, Reader, Record, once, read_image
from calotype.data.reading.colour import MAX_PROFILE, _conversion
from calotype.data.reading.images import decode
from calotype.data.reading.profiles import (
    ADOBE_CURVE,
    ADOBE_RGB,
    REC709,
    SRGB_CURVE,
    matrix_profile,
)

P3 = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
DISPLAY_P3 = matrix_profile(P3, SRGB_CURVE)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
STORED = Decoding(colour=AsStored())


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def many(mode: str = "RGB") -> Image.Image:
    """Colours from all over."""
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    if mode == "CMYK":
        return Image.frombytes(mode, (32, 32), values.tobytes())
    image = Image.fromarray(values if mode == "RGBA" else values[..., :3])
    return image.quantize() if mode == "P" else image.convert(mode)


def by_hand(pixels: np.ndarray, primaries: tuple[float, ...], gamma: float | None) -> np.ndarray:
    """What 0..255 in colours of these primaries are in sRGB, by the formulas of its standard; no
    gamma: with its own curve. White is D65 in both, and so nothing is adapted.
    """

    def to_xyz(chromaticities: tuple[float, ...]) -> np.ndarray:
        x, y = np.array(chromaticities).reshape(4, 2).T
        columns = np.stack([x / y, np.ones(4), (1 - x - y) / y])
        return columns[:, 1:] * np.linalg.solve(columns[:, 1:], columns[:, 0])

    v = pixels / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    linear = v**gamma if gamma else linear
    rgb = np.clip(linear @ (np.linalg.inv(to_xyz(REC709)) @ to_xyz(primaries)).T, 0, 1)
    return 255 * np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, float)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF"])
def test_bug_a_display_p3_picture_kept_its_numbers(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"}
    options = {} if kind in ("PNG", "TIFF") else options
    data = encoded(many(), kind, icc_profile=DISPLAY_P3, **options)
    stored, converted = read_image(data, "x", STORED), read_image(data, "x")
    expected = by_hand(array(stored), P3, None)
    assert abs(array(stored) - expected).max() > 38
    assert abs(array(converted) - expected).max() < 2


@pytest.mark.parametrize("by", [1, 4])
def test_a_jpegs_profile_is_heeded_at_any_scale(by: int) -> None:
    smooth = Image.fromarray(np.uint8(np.indices((64, 64)).repeat(2, 0)[:3].transpose(1, 2, 0) * 4))
    data = encoded(smooth, "JPEG", quality=95, icc_profile=DISPLAY_P3)
    stored = read_image(data, "x", Decoding(colour=AsStored(), reduction=lambda w, h: by))
    converted = read_image(data, "x", Decoding(reduction=lambda w, h: by))
    assert stored.size == converted.size == (64 // by, 64 // by)
    assert abs(array(converted) - by_hand(array(stored), P3, None)).max() < 2


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "L"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("WEBP", "RGBA"),
     *((kind, mode) for kind in ("PNG", "TIFF") for mode in ("L", "RGB", "RGBA", "P"))],
)  # fmt: skip
def test_what_is_srgb_stays_bit_for_bit(kind: str, mode: str) -> None:
    for profile in (None, SRGB, matrix_profile(REC709, SRGB_CURVE)):
        data = encoded(many(mode), kind, icc_profile=profile)
        plain = Image.open(BytesIO(data))
        if mode == "RGBA":
            plain = Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain)
        assert np.array_equal(read_image(data, "x"), plain.convert("RGB"))


def test_transparency_stays_beside_colours() -> None:
    data = encoded(many("RGBA"), icc_profile=DISPLAY_P3)
    stored, converted = (read_image(data, "x", how) for how in
                         (Decoding("RGBA", AsStored()), Decoding("RGBA")))  # fmt: skip
    assert np.array_equal(array(stored)[..., 3], array(converted)[..., 3])
    expected = by_hand(array(stored)[..., :3], P3, None)
    assert abs(array(converted)[..., :3] - expected).max() < 2


def grey_profile(gamma: float) -> bytes:
    """A grey of that gamma: the profile of a colour's with the one curve and no primaries."""
    whole = matrix_profile(REC709, (gamma,))
    count = struct.unpack(">I", whole[128:132])[0]
    entries = {whole[132 + 12 * i : 136 + 12 * i]: whole[136 + 12 * i : 144 + 12 * i]
               for i in range(count)}  # fmt: skip
    tags = {b"wtpt": entries[b"wtpt"], b"kTRC": entries[b"rTRC"]}
    body, table = whole[144 + 12 * (count - 1) :], struct.pack(">I", 2)
    for name, place in tags.items():
        start, size = struct.unpack(">II", place)
        table += name + struct.pack(">II", start - 12 * (count - 2), size)
    header = whole[4:16] + b"GRAY" + whole[20:128]
    return struct.pack(">I", 128 + len(table) + len(body)) + header + table + body


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_greys_of_another_gamma(mode: str) -> None:
    greys = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(mode)
    data = encoded(greys, icc_profile=grey_profile(1.8))
    found = array(read_image(data, "x"))
    expected = by_hand(np.arange(256.0)[None, :, None].repeat(3, 2), REC709, 1.8)
    assert abs(found - expected).max() < 2
    assert np.array_equal(read_image(data, "x", Decoding("L")), found[..., 0])


def test_a_16_bit_grey_keeps_its_profile() -> None:
    greys = Image.fromarray((np.arange(256, dtype=np.uint16) * 257)[None])
    found = array(read_image(encoded(greys, icc_profile=grey_profile(1.8)), "x"))
    expected = by_hand(np.arange(256.0)[None, :, None].repeat(3, 2), REC709, 1.8)
    assert abs(found - expected).max() < 2


def chunked(gamma: float | None = None, primaries: tuple[float, ...] | None = None,
            srgb: bool = False) -> bytes:  # fmt: skip
    """A PNG that says in numbers what its colours are."""
    chunks = PngImagePlugin.PngInfo()
    if gamma is not None:
        chunks.add(b"gAMA", struct.pack(">I", round(gamma * 1e5)))
    if primaries is not None:
        chunks.add(b"cHRM", struct.pack(">8I", *(round(v * 1e5) for v in primaries)))
    if srgb:
        chunks.add(b"sRGB", b"\0")
    return encoded(many(), pnginfo=chunks)


@pytest.mark.parametrize(
    ("said", "primaries", "gamma"),
    [
        ({"gamma": 1.0}, REC709, 1.0),
        ({"gamma": 1 / 1.8, "primaries": P3}, P3, 1.8),
        ({"gamma": 0.45455, "primaries": P3}, P3, None),
        ({"primaries": P3}, P3, None),
    ],
)
def test_a_png_may_say_it_in_numbers(said: dict, primaries: tuple, gamma: float | None) -> None:
    expected = by_hand(array(many()), primaries, gamma)
    assert abs(array(read_image(chunked(**said), "x")) - expected).max() < 2


@pytest.mark.parametrize(
    "said",
    [{"gamma": 0.45455}, {"gamma": 0.45455, "primaries": REC709},
     {"gamma": 1.0, "primaries": P3, "srgb": True}],
)  # fmt: skip
def test_numbers_that_mean_srgb_change_none(said: dict) -> None:
    assert np.array_equal(read_image(chunked(**said), "x"), many())


def test_a_cameras_word_for_adobe_rgb() -> None:
    # One directory points to the next, of each one entry: Exif, what it works with, and its name.
    places = [struct.pack(">HHHII4x", 1, tag, 4, 1, place) for tag, place in
              ((0x8769, 26), (0xA005, 44))]  # fmt: skip
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + b"".join(places)
    exif += struct.pack(">HHHI4s4x", 1, 1, 2, 4, b"R03\0")
    plain = encoded(many(), "JPEG", quality=95)
    data = encoded(many(), "JPEG", quality=95, exif=exif)
    expected = by_hand(array(read_image(plain, "x")), ADOBE_RGB, ADOBE_CURVE[0])
    assert abs(array(read_image(data, "x")) - expected).max() < 2
    odd = data.replace(b"R03", b"R98")
    assert np.array_equal(read_image(odd, "x"), read_image(plain, "x"))


@pytest.mark.parametrize(
    "profile",
    [b"no profile", DISPLAY_P3[:200], grey_profile(2.2), DISPLAY_P3.ljust(MAX_PROFILE + 1, b"\0")],
    ids=["none", "cut", "grey", "huge"],
)
def test_a_profile_that_is_not_to_be_used_leaves_the_picture(profile: bytes) -> None:
    data = encoded(many(), "JPEG", quality=95, icc_profile=profile)
    decoded = decode(data, "x")
    assert "taken for sRGB" in decoded.doubt and "\n" not in decoded.doubt
    assert np.array_equal(decoded.image, read_image(data, "x", STORED))
    with pytest.warns(UserWarning, match=r"x: its colours are taken for sRGB"):
        read_image(data, "x")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_profile_is_told_once(tmp_path: Path, workers: int) -> None:
    records = []
    for i in range(8):
        file = tmp_path / f"{i}.jpg"
        file.write_bytes(encoded(many(), "JPEG", icc_profile=b"bad" if i % 2 else None))
        records.append(Record(file, file.name, ""))
    dataset = Pictures(records, Reader("skip", "some"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        batches = list(once(dataset, 2, workers=workers))
    assert sum(len(batch["name"]) for batch in batches) == 8 and not dataset.reader.skipped
    assert [str(w.message)[:5] for w in told] == ["1.jpg"]


def test_cmyk_goes_by_its_profile_and_without_one_as_before() -> None:
    plain = encoded(many("CMYK"), "TIFF")
    assert np.array_equal(read_image(plain, "x"), many("CMYK").convert("RGB"))
    doubted = decode(encoded(many("CMYK"), "TIFF", icc_profile=DISPLAY_P3), "x")
    assert doubted.doubt and np.array_equal(doubted.image, many("CMYK").convert("RGB"))


def test_a_profile_is_opened_once() -> None:
    _conversion.cache_clear()
    for name in "abc":
        read_image(encoded(many(), icc_profile=DISPLAY_P3), name)
    assert _conversion.cache_info().misses == 1


def test_chromaticities_that_are_none() -> None:
    for numbers in ((0.0,) * 8, (0.3127, 0.329, *(0.3, 0.3) * 3)):
        with pytest.raises(ValueError, match=r"no (three colours|chromaticities)"):
            matrix_profile(numbers, (2.2,))
