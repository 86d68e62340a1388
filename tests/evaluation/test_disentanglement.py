"""The mutual information gap, of latents whose gap is known."""

import numpy as np
import pytest

from calotype.evaluation.disentanglement import mutual_information_gap

FACTORS = np.stack(np.meshgrid(range(4), range(5), range(6), indexing="ij"), -1).reshape(-1, 3)
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(len(FACTORS), 1))


def test_a_number_for_each_factor_has_a_gap_of_one():
    """Whatever their order, sign and scale."""
    latents = np.concatenate([-3.0 * FACTORS[:, ::-1], np.zeros_like(NOISE)], 1)
    assert mutual_information_gap(latents, FACTORS) == pytest.approx([1, 1, 1])


def test_two_numbers_that_say_the_same_have_none():
    latents = np.concatenate([FACTORS, FACTORS], 1).astype(float)
    assert mutual_information_gap(latents, FACTORS) == pytest.approx([0, 0, 0], abs=1e-12)


def test_turned_factors_have_nearly_none():
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    assert mutual_information_gap(FACTORS @ turn, FACTORS).mean() < 0.3


def test_half_of_a_factor_is_half_of_its_entropy():
    """A number that tells the halves of four values says ln 2 of ln 4."""
    latents = np.column_stack([FACTORS[:, 0] // 2, np.zeros(len(FACTORS))]).astype(float)
    assert mutual_information_gap(latents, FACTORS[:, :1]) == pytest.approx([0.5])


def test_what_has_no_gap_is_refused():
    with pytest.raises(ValueError, match="1 numbers"):
        mutual_information_gap(FACTORS[:, :1].astype(float), FACTORS)
    with pytest.raises(ValueError, match="factor 0 has one value"):
        mutual_information_gap(FACTORS.astype(float), np.zeros_like(FACTORS))
