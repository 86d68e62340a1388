from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.data import (
    AsStored,
    CenterCrop,
    Decoding,
    Example,
    Flip,
    RandomCrop,
    RandomResizedCrop,
    ToSRGB,
    Transform,
)
from calotype.data.reading.images import decode
from calotype.data.reading.transforms import Crop

GRADIENT = Image.fromarray(
    np.stack([*np.indices((64, 96), np.uint8)[::-1], np.zeros((64, 96), np.uint8)], -1)
)  # fmt: skip
"""96x64; red is x, green is y."""


def legacy_state() -> np.ndarray:
    return np.random.get_state()[1]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("crop", [RandomResizedCrop(16), RandomCrop(16, 24), CenterCrop(16)])
@pytest.mark.parametrize("size", [(1, 1), (1, 400), (37, 16), (96, 64)])
def test_any_size_becomes_a_tensor_of_one(crop: Crop, size: tuple[int, int]) -> None:
    example: Example = {"image": Image.new("RGB", size, "white"), "caption": "w"}
    sample = Transform(crop, Flip())(example, np.random.default_rng(0))
    assert sample["caption"] == "w"
    assert torch.equal(sample["image"], torch.full((3, 16, 16), 255, dtype=torch.uint8))


def test_all_chance_is_the_generators() -> None:
    transform = Transform(RandomResizedCrop(8), Flip())
    example: Example = {"image": GRADIENT, "caption": ""}
    before = torch.get_rng_state(), legacy_state()
    first, again, other = (transform(example, np.random.default_rng(s))["image"] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], legacy_state())


def test_random_crop_at_the_pictures_own_size_moves_no_value() -> None:
    corners = set()
    for seed in range(60):
        crop = np.asarray(RandomCrop(32, 64)(GRADIENT, np.random.default_rng(seed))).astype(int)
        x, y = crop[0, 0, :2]
        corners.add((x, y))
        assert np.array_equal(crop, np.asarray(GRADIENT)[y : y + 32, x : x + 32])
    xs, ys = zip(*corners, strict=True)
    assert min(xs) < 8 and max(xs) > 56 and max(xs) <= 64 and min(ys) < 4 and max(ys) > 28


def test_resized_crop_keeps_within_its_areas_and_shapes() -> None:
    for seed in range(50):
        crop = RandomResizedCrop(64, scale=(0.25, 0.5))(GRADIENT, np.random.default_rng(seed))
        low, high = np.asarray(crop)[2, 2].astype(int), np.asarray(crop)[-3, -3].astype(int)
        width, height = ((high - low)[:2] + 1) * 64 / 60
        assert 0.2 < width * height / (96 * 64) < 0.56
        assert 0.65 < width / height < 1.5


def test_center_crop_does_not_alias() -> None:
    checks = Image.fromarray((np.indices((64, 96)).sum(0) % 2 * 255).astype(np.uint8)).convert(
        "RGB"
    )
    values = np.asarray(CenterCrop(8)(checks, np.random.default_rng(0)))
    assert abs(values.astype(float) - 127.5).max() < 8


def test_flip_mirrors_as_often_as_told() -> None:
    rng = np.random.default_rng(0)
    flips = [np.asarray(Flip(0.25)(GRADIENT, rng))[0, 0, 0] == 95 for _ in range(1000)]
    assert 0.2 < np.mean(flips) < 0.3


CROPS = [
    RandomResizedCrop(16), RandomResizedCrop(16, (0.3, 1.0)), RandomCrop(16), RandomCrop(16, 20),
    CenterCrop(16), CenterCrop(8),
]  # fmt: skip


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("side", [32, 61, 97, 256])
def test_a_crop_never_has_less_than_its_pixels_twice_over(crop: Crop, side: int) -> None:
    width, height = 3 * side // 2, side
    by = crop.reduction(width, height)
    assert by in (1, 2, 4, 8)
    for seed in range(40):
        left, top, right, bottom = crop.box(width, height, np.random.default_rng(seed))
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert by == 1 or min(right - left, bottom - top) / by >= 2 * crop.size - 1


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", [(320, 256), (321, 259)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_crop_of_a_reduced_picture_is_that_of_the_whole(
    crop: Crop, size: tuple[int, int], orientation: int
) -> None:
    y, x = np.mgrid[: size[1], : size[0]] / 40
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.uint8(127.5 + 120 * waves)).save(file, "JPEG", quality=95, exif=exif)
    transform, plain = Transform(crop), Decoding()
    decodings = [decode(file.getvalue(), "x", how) for how in (transform.decoding, plain)]
    assert decodings[0].reduction > 1 or (orientation != 1 and size == (321, 259))
    rngs = [np.random.default_rng(7), np.random.default_rng(7)]
    samples = [
        transform({"image": image, "caption": "", "size": whole, "reduction": by}, rng)["image"]
        for (image, whole, by, _), rng in zip(decodings, rngs, strict=True)
    ]
    assert rngs[0].random() == rngs[1].random()  # both drew as much
    assert (samples[0].float() - samples[1].float()).abs().mean() < 1.5


def test_a_transform_says_how_pictures_are_decoded() -> None:
    crop = CenterCrop(16)
    assert Transform(crop).decoding == Decoding("RGB", ToSRGB(), crop.reduction)
    assert Transform(crop, colour=AsStored()).decoding.colour == AsStored()


@pytest.mark.parametrize("size", [100, 224, 299, 336])
def test_bug_a_crops_side_rounded_beyond_the_picture(size: int) -> None:
    """Bug: 224 * (900 / 224) > 900, and Pillow refuses a box that begins at -1e-13."""
    sides = range(size, size + 1000)
    beyond = [side for side in sides if size * (side / size) > side]
    assert beyond
    rng = np.random.default_rng(0)
    for short in {*beyond[:30], *sides[::40]}:
        for crop in (RandomCrop(size), RandomCrop(size, size + 7)):
            assert crop(Image.new("L", (short, short + 3)), rng).size == (size, size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(32, 16), r"transform\.crop\.resize is 16: .* at least the size, 32"),
        (lambda: RandomCrop(0), r"transform\.crop\.size is 0: it must be at least 1"),
        (lambda: CenterCrop(-1), r"transform\.crop\.size is -1"),
        (lambda: RandomResizedCrop(0), r"transform\.crop\.size is 0"),
        (lambda: RandomResizedCrop(scale=(0.9, 0.1)), r"transform\.crop\.scale is \(0\.9, 0\.1\)"),
        (lambda: RandomResizedCrop(scale=(0.0, 1.0)), r"transform\.crop\.scale"),
        (lambda: RandomResizedCrop(scale=(0.5, 2.0)), r"transform\.crop\.scale"),
        (lambda: RandomResizedCrop(ratio=(0.0, 1.0)), r"transform\.crop\.ratio is \(0\.0, 1\.0\)"),
        (lambda: RandomResizedCrop(ratio=(2.0, 1.0)), r"transform\.crop\.ratio"),
        (lambda: Flip(1.5), r"transform\.flip\.probability is 1\.5: it must lie in \[0, 1\]"),
        (lambda: Flip(float("nan")), r"transform\.flip\.probability"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_field(
    make: Callable[[], Crop | Flip], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
