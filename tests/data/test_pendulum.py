"""Pendulums are a function of (seed, index), and their factors are true."""

import numpy as np
import pytest
import torch

from calotype.data import Loader, Pendulum
from calotype.data.drawn.pendulum import BALL, LIGHT, SHADOW, draw, factors_of
from calotype.training.images import scaled

SPEC = Pendulum(64, count=500)


def test_a_picture_is_a_function_of_seed_and_index():
    data, batch = SPEC.build(), SPEC.build().batch([3, 7])
    one = data[7]
    assert np.array_equal(np.array(one["image"]), draw(data._causes(7)[None], 64)[0])
    assert torch.equal(one["factors"], batch["factors"][1])
    assert one["caption"] == batch["caption"][1]
    assert not torch.equal(Pendulum(64, seed=1).build()[7]["factors"], one["factors"])
    with pytest.raises(IndexError, match="picture 500 of 500"):
        data[500]


def test_factors_have_mean_0_and_deviation_1():
    factors = Pendulum(16).build().batch(range(4000))["factors"]
    assert factors.mean(0).abs().max() < 0.05 and (factors.std(0) - 1).abs().max() < 0.05


def middle(pixels: np.ndarray, colour: np.ndarray) -> tuple[float, float, float]:
    """Middle (x, y) and width of what is of a colour, as fractions of the side."""
    y, x = np.nonzero(np.abs(pixels.astype(int) - colour).sum(-1) < 40)
    size = len(pixels)
    return (x.mean() + 0.5) / size, (y.mean() + 0.5) / size, (np.ptp(x) + 1) / size


@pytest.mark.parametrize("causes", [(5, 5), (5, 35), (30, 20), (55, 5), (55, 35)])
def test_the_factors_are_those_of_the_picture(causes):
    degrees = np.array([causes], np.float32)
    angle, light, length, position = factors_of(degrees)[0]
    (pixels,) = draw(degrees, 256)
    x, y, _ = middle(pixels, BALL)
    assert np.degrees(np.arctan2(x - 0.45, y - 0.35)) == pytest.approx(angle, abs=1)
    sun_x, sun_y, _ = middle(pixels, LIGHT)
    assert np.degrees(np.arctan2(sun_x - 0.45, 0.35 - sun_y)) == pytest.approx(light, abs=1)
    shadow_x, _, width = middle(pixels, SHADOW)
    assert shadow_x == pytest.approx(position, abs=0.01)
    assert width - 2 * 0.035 == pytest.approx(length, abs=0.02)
    # The end of the shadow lies on the ray from the sun's direction through the ball.
    slope = np.tan(np.radians(light))
    assert x - slope * (0.9 - y) == pytest.approx(position + length / 2, abs=0.01)


def test_a_loader_hands_factors_on():
    batch = next(Loader(SPEC.build(), 4, seed=0).batches())
    assert batch["factors"].shape == (4, 4) and scaled(batch["image"]).shape == (4, 3, 64, 64)


@pytest.mark.parametrize(("field", "value"), [("size", 8), ("seed", -1), ("count", 0)])
def test_refuses_what_cannot_be_drawn(field, value):
    with pytest.raises(ValueError, match=f"data.{field}: {value} is not possible; choose"):
        Pendulum(**{field: value})
