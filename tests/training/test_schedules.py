"""Schedules: their ends, what is between, and the learning rate's own."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from calotype.training import AdamW
from calotype.training.schedules import Constant, Cosine

UP, DOWN = Cosine(0.1, 0.3, 10), Cosine(1.0, 1 / 16, 10)


@pytest.mark.parametrize("schedule", [UP, DOWN], ids=["up", "down"])
def test_a_cosine_keeps_its_ends_exactly(schedule):
    assert schedule.at(0) == schedule.first
    assert [schedule.at(step) for step in (10, 11, 10**9)] == [schedule.last] * 3


@pytest.mark.parametrize("schedule", [UP, DOWN], ids=["up", "down"])
def test_a_cosine_goes_one_way_slowly_at_both_ends(schedule):
    steps = [b - a for a, b in pairwise(map(schedule.at, range(11)))]
    assert all(step * (schedule.last - schedule.first) > 0 for step in steps)
    assert all(abs(a) < abs(b) for a, b in pairwise(steps[:5]))
    assert steps == pytest.approx(steps[::-1])
    assert schedule.at(5) == pytest.approx((schedule.first + schedule.last) / 2)


def test_a_cosine_is_a_cosine():
    assert DOWN.at(3) == pytest.approx(1 / 16 + 15 / 32 * (1 + math.cos(0.3 * math.pi)))


def test_least_is_the_smallest_number():
    for schedule in (UP, DOWN, Cosine(1e-20, 1.0, 7)):
        assert min(map(schedule.at, range(12))) == schedule.least > 0
    assert Constant(-2.0).least == -2.0


def test_a_constant_is_constant():
    assert {Constant(0.3).at(step) for step in (0, 1, 10**9)} == {0.3}


def test_impossible_schedules_are_refused():
    for values in ((math.nan, 1.0), (0.0, math.inf)):
        with pytest.raises(ValueError, match=r"a schedule goes through .*must be finite"):
            Cosine(*values, 5)
    with pytest.raises(ValueError, match="a schedule goes through"):
        Constant(-math.inf)
    with pytest.raises(ValueError, match="a cosine of 0 steps"):
        Cosine(0.0, 1.0, 0)


def test_the_learning_rate_ends_where_it_was_told():
    adam = AdamW(2e-3, schedule="cosine", min_lr_factor=0.25, warmup=4)
    rates = [adam.rate(step, 20) for step in range(21)]
    assert rates[:5] == pytest.approx([5e-4, 1e-3, 1.5e-3, 2e-3, 2e-3])
    assert rates[12] == pytest.approx((2e-3 + 5e-4) / 2)  # half-way from 4 to 20
    assert rates[20] == pytest.approx(5e-4) and all(a > b for a, b in pairwise(rates[4:]))


def test_a_learning_rate_may_fall_before_the_run_ends():
    """DALL-E's: from 1e-4 to 1.25e-6 over 1,200,000 of 3,000,000 steps (Ramesh et al. 2021,
    appendix A.2).
    """
    adam = AdamW(1e-4, schedule="cosine", min_lr_factor=0.0125, cosine_steps=1_200_000)
    assert adam.rate(0, 3_000_000) == 1e-4
    assert adam.rate(600_000, 3_000_000) == pytest.approx((1e-4 + 1.25e-6) / 2)
    assert adam.rate(1_199_000, 3_000_000) > 1.25e-6 * (1 + 1e-6)
    for step in (1_200_000, 2_000_000, 2_999_999):
        assert adam.rate(step, 3_000_000) == pytest.approx(1.25e-6, rel=1e-9)


def test_the_cosines_steps_begin_after_the_warm_up():
    adam = AdamW(1.0, schedule="cosine", warmup=10, cosine_steps=20)
    assert adam.rate(10, 99) == 1.0 and adam.rate(20, 99) == pytest.approx(0.5)
    assert adam.rate(30, 99) == adam.rate(98, 99) == 0


def test_without_a_number_the_cosine_is_the_runs():
    adam = AdamW(1.0, schedule="cosine", warmup=10)
    for step in (0, 10, 37, 98):
        assert adam.rate(step, 99) == replace(adam, cosine_steps=89).rate(step, 99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cosine_steps": 0, "schedule": "cosine"}, r"cosine_steps is 0: it must be positive"),
        ({"cosine_steps": 5}, r"cosine_steps is 5, and optimizer\.schedule is constant"),
        ({"min_lr_factor": 1.5}, r"min_lr_factor is 1\.5"),
        ({"min_lr_factor": -0.1}, r"min_lr_factor is -0\.1"),
    ],
)
def test_impossible_learning_rates_are_refused(changes, message):
    with pytest.raises(ValueError, match=rf"optimizer\.{message}"):
        AdamW(**changes)
