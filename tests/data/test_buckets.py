import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from calotype.data import Buckets, Transform

SIDES = st.integers(1, 20_000)
LADDERS = st.builds(
    lambda cells, step, ratio, lost: (cells * step, step, ratio, lost),
    st.integers(8, 64), st.sampled_from([1, 4, 8, 16, 64]), st.floats(1, 2), st.floats(0.12, 0.4),
)  # fmt: skip


@given(SIDES, SIDES, LADDERS)
@example(3, 2, (64, 8, 2.0, 0.12))
@example(16, 9, (256, 8, 2.0, 0.12))
def test_no_picture_within_the_ratio_loses_more_than_is_said(
    width: int, height: int, ladder: tuple[int, int, float, float]
) -> None:
    size, step, ratio, lost = ladder
    buckets = Buckets(size, step, ratio, lost)
    shape = buckets.nearest(width, height)
    left, top, right, bottom = buckets.box(width, height, np.random.default_rng(0))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    kept = (right - left) * (bottom - top) / (width * height)
    assert 1 - kept == pytest.approx(buckets.lost_of(width, height), abs=1e-9)
    if max(width, height) <= ratio * min(width, height):
        assert 1 - kept <= lost + 1e-9
    # What is left has the bucket's ratio: nothing is squeezed.
    assert (right - left) / (bottom - top) == pytest.approx(shape.ratio)


@given(LADDERS)
def test_shapes_are_multiples_of_the_step_and_of_about_one_area(
    ladder: tuple[int, int, float, float],
) -> None:
    buckets = Buckets(*ladder)
    shapes, square = buckets.shapes, buckets.size**2
    assert all(side % buckets.step == 0 for shape in shapes for side in shape)
    assert all(abs(w * h / square - 1) <= 0.1 for w, h in shapes)
    assert [(h, w) for w, h in reversed(shapes)] == list(shapes)
    assert shapes[len(shapes) // 2] == (buckets.size, buckets.size)
    ratios = [shape.ratio for shape in shapes]
    assert ratios == sorted(set(ratios))


@pytest.mark.parametrize(
    ("size", "step", "ratio"),
    [(64, 8, 2.0), (64, 4, 3.0), (256, 8, 4.0), (256, 32, 2.0), (1024, 64, 4.0)],
)
def test_the_usual_sizes_have_buckets(size: int, step: int, ratio: float) -> None:
    assert 5 <= len(Buckets(size, step, ratio).shapes) <= 15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 64, "step": 32}, "crop: of 64x64 pixels in steps of 32 there are too few shapes"),
        ({"size": 100, "step": 8}, "crop.size is 100: choose a multiple of transform.crop.step, 8"),
        ({"ratio": 0.5}, "crop.ratio is 0.5: it must be at least 1"),
        ({"lost": 0.0}, "crop.lost is 0.0"),
        ({"step": 0}, "crop.step is 0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Buckets(**settings)


@given(SIDES, SIDES)
def test_a_picture_decoded_smaller_has_the_pixels_of_its_bucket(width: int, height: int) -> None:
    buckets = Buckets(64, 8)
    power, shape = buckets.reduction(width, height), buckets.nearest(width, height)
    assert power in (1, 2, 4, 8)
    if power > 1:
        assert width / power >= 2 * shape.width and height / power >= 2 * shape.height


def test_a_picture_becomes_its_bucket_without_being_squeezed() -> None:
    # Stripes of one pixel column each: their width after resizing tells the scale along each axis.
    ramp = np.broadcast_to(np.linspace(0, 255, 300)[None, :, None], (200, 300, 3))
    transform = Transform(Buckets(64, 8, place="centre"))
    image = transform({"image": Image.fromarray(ramp.astype(np.uint8)), "caption": ""},
                      np.random.default_rng(0))["image"]  # fmt: skip
    assert image.shape == (3, 56, 80)
    slope = image[0, 28].float().diff().mean().item()
    assert slope == pytest.approx(255 / 300 * 200 / 56, rel=0.02)


def test_the_place_is_drawn_or_central() -> None:
    rng = np.random.default_rng(0)
    random, centre = Buckets(64, 8), Buckets(64, 8, place="centre")
    boxes = {random.box(300, 100, rng) for _ in range(50)}
    assert len(boxes) > 10 and all(top == 0 and bottom == 100 for _, top, _, bottom in boxes)
    left, _, right, _ = centre.box(300, 100, rng)
    assert left == pytest.approx(300 - right)
