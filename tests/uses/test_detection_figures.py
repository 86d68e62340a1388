"""Thresholds keep their rate of false alarms, and figures are what their definitions say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from calotype.data.drawn.defects import DEFECTS, planted
from calotype.uses.detection import area_under_overlap, figures
from calotype.uses.detection.conformal import needed, p_values, spread, threshold
from calotype.uses.detection.novelty import NoveltyDetector


@settings(max_examples=20)
@given(held=st.integers(19, 60), rate=st.floats(0.05, 0.5), seed=st.integers(0, 10**6))
def test_false_alarms_are_as_many_as_promised(held, rate, seed):
    """Over draws of held-out scores of a heavy-tailed law: never more than the rate, which one more
    false alarm in n + 1 would exceed. Bug: the plain quantile of n alarms too often."""
    chance, draws = np.random.default_rng(seed), 4000
    scores = chance.standard_t(2, (draws, held + 1))
    least = np.sort(scores[:, :held])
    k = int(np.ceil(round((held + 1) * (1 - rate), 9)))
    alarms = (scores[:, held] > least[:, k - 1]).mean()
    assert threshold(scores[0, :held], rate) == least[0, k - 1]
    error = 4 * np.sqrt(rate / draws)
    assert rate - 1 / (held + 1) - error <= alarms <= rate + error


def test_the_estimator_keeps_its_rate_on_average_over_draws():
    rates = []
    for seed in range(150):
        x = np.random.default_rng(seed).normal(size=(260, 3))
        detector = NoveltyDetector(false_alarm_rate=0.1, random_state=seed).fit(x[:60])
        rates.append((detector.predict(x[60:]) == -1).mean())
    assert 0.07 < np.mean(rates) < 0.107
    low, high = spread(30, 0.1)
    assert 0.82 < np.mean([(low <= rate <= high) for rate in rates]) < 0.97


def test_so_many_normals_promise_so_small_a_rate():
    assert [needed(rate) for rate in (0.5, 0.1, 0.05, 0.01, 0.001)] == [1, 9, 19, 99, 999]
    held = np.arange(19.0)
    assert threshold(held, 0.05) == 18
    with pytest.raises(ValueError, match=r"0\.05 takes 19 held-out .* are 18: .* 0\.0526 or more"):
        threshold(held[:18], 0.05)
    with pytest.raises(ValueError, match="between 0 and 1"):
        needed(0.0)


def test_an_alarm_is_a_small_p_value():
    held = np.random.default_rng(0).normal(size=99)
    scores = np.linspace(-4, 4, 200)
    p = p_values(held, scores)
    assert np.array_equal(scores > threshold(held, 0.07), p <= 0.07)
    assert p.min() == 0.01 and p.max() == 1


def overlap_by_thresholds(maps, masks, limit):
    """AUPRO as its definition has it: each threshold in turn."""
    regions = []
    for i, mask in enumerate(masks):
        numbers, count = label(mask, np.ones((3, 3)))
        regions += [(i, numbers == n) for n in range(1, count + 1)]
    rates, found = [0.0], [0.0]
    for level in np.unique(maps)[::-1]:
        hot = maps >= level
        rates.append((hot & ~masks).sum() / (~masks).sum())
        found.append(np.mean([hot[i][region].mean() for i, region in regions]))
    area = 0.0
    for x0, x1, y0, y1 in zip(rates, rates[1:], found, found[1:], strict=False):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([3, 7, 10**6]),
       limit=st.sampled_from([0.05, 0.3, 1.0]))  # fmt: skip
def test_aupro_is_what_its_definition_says(seed, levels, limit):
    chance = np.random.default_rng(seed)
    masks = chance.random((3, 9, 8)) < 0.15
    masks[0, 2:5, 2:5] = True
    maps = chance.integers(0, levels, masks.shape) / levels + 0.3 * masks
    right = overlap_by_thresholds(maps, masks, limit)
    assert area_under_overlap(maps, masks, limit) == pytest.approx(right, abs=1e-9)


def test_regions_count_alike_however_large():
    """Bug: a pixel's AUROC hardly sees a small defect beside a large one."""
    masks = np.zeros((1, 40, 40), bool)
    masks[0, :20, :20] = masks[0, 30:32, 30:32] = True
    large = masks * 1.0
    large[0, 30:, 30:] = 0
    assert area_under_overlap(large, masks) == pytest.approx(0.5 + 0.5 * 0.15, abs=1e-6)
    assert area_under_overlap(masks * 1.0, masks) == pytest.approx(1)
    assert area_under_overlap(np.zeros(masks.shape), masks) == pytest.approx(0.15)
    assert figures(np.zeros(1), np.ones(1, bool), large, masks).pixel_auroc > 0.98
    with pytest.raises(ValueError, match="one kind"):
        area_under_overlap(large, masks & False)


def test_what_cannot_be_known_is_left_out():
    scores, told = np.array([0.1, 0.4, 0.3]), np.array([False, True, False])
    assert figures(scores, told).auroc == roc_auc_score(told, scores) == 1
    assert figures(scores, told).aupro is None and figures(scores, told & False).auroc is None
    maps = np.zeros((3, 4, 4))
    assert figures(scores, told, maps, np.zeros((3, 4, 4), bool)).pixel_auroc is None


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_is_where_its_mask_is_and_the_same_again(kind):
    picture = np.random.default_rng(1).integers(0, 256, (48, 40, 3), np.uint8)
    found, mask = planted(picture, kind, np.random.default_rng(2))
    again, _ = planted(picture, kind, np.random.default_rng(2))
    other, _ = planted(picture, kind, np.random.default_rng(3))
    assert np.array_equal(found, again) and not np.array_equal(found, other)
    assert np.array_equal((found != picture).any(2), mask) and 0 < mask.mean() < 0.3


def test_a_defect_that_nobody_sees_is_none():
    """Bug: a part missing from an even ground was labelled a defect."""
    even = np.full((32, 32, 3), 90, np.uint8)
    with pytest.raises(ValueError, match="cannot be seen"):
        planted(even, "missing", np.random.default_rng(0))
    with pytest.raises(ValueError, match="no defect is called dent"):
        planted(even, "dent", np.random.default_rng(0))
    assert planted(even, "scratch", np.random.default_rng(0))[1].mean() < 0.1
    assert torch.from_numpy(planted(even[..., :1], "blob", np.random.default_rng(0))[1]).any()
