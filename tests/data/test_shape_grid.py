"""Shapes with factors: every combination once, and what spoils them."""

import numpy as np
import pytest
import torch

from calotype.data import Loader, Shapes, Transform
from calotype.data.drawn.shape_grid import FACTORS, Nuisance
from calotype.data.reading.transforms import CenterCrop

SPOILT = Shapes(nuisance=Nuisance(), copies=2)


def test_every_combination_comes_once_and_no_two_look_alike():
    data = Shapes().build()
    batch = data.batch(range(len(data)))
    assert len(data) == 3 * 4 * 8 * 8 and batch["factors"].shape == (768, len(FACTORS))
    assert len(batch["factors"].unique(dim=0)) == 768
    assert len(batch["image"].flatten(1).unique(dim=0)) == 768
    assert [int(n) + 1 for n in batch["factors"].amax(0)] == list(Shapes().levels)


@pytest.mark.parametrize("spec", [Shapes(), SPOILT])
def test_one_by_one_they_are_the_same(spec):
    data = spec.build()
    batch = data.batch([0, 700, 100])
    for j, index in enumerate((0, 700, 100)):
        example = data[index]
        pixels = torch.from_numpy(np.array(example["image"])).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(batch["image"][j], pixels)
        assert torch.equal(batch["factors"][j], example["factors"])
        assert batch["caption"][j] == example["caption"]
    with pytest.raises(IndexError):
        data[len(data)]


def test_factors_are_what_is_seen():
    """Mass grows with the scale; its centre moves with the place, by as much in each step."""
    batch = Shapes().build().batch(range(768))
    mass = (batch["image"][:, 0] + 1) / 2
    scale, x, y = batch["factors"][:, 1:].T
    total = mass.sum((1, 2))
    means = torch.stack([total[scale == level].mean() for level in range(4)])
    assert (means.diff() > 0).all()
    pixels = torch.arange(16) + 0.5
    across = (mass.sum(1) * pixels).sum(1) / total
    down = (mass.sum(2) * pixels).sum(1) / total
    for factor, place in ((x, across), (y, down)):
        steps = torch.stack([place[factor == level].mean() for level in range(8)]).diff()
        torch.testing.assert_close(steps, torch.full((7,), 8 / 7), atol=0.05, rtol=0)
    for each in total.view(3 * 4, 64):
        assert each.std() < 0.03 * each.mean(), "a shape is cut off somewhere"


def test_copies_differ_in_the_nuisance_alone():
    data = SPOILT.build()
    first, second = data.batch(range(768)), data.batch(range(768, 1536))
    assert torch.equal(first["factors"], second["factors"])
    assert (first["image"] - second["image"]).abs().amax((1, 2, 3)).min() > 0.05
    again = Shapes(nuisance=Nuisance(), copies=2).build().batch(range(768))
    assert torch.equal(again["image"], first["image"])
    dark = (first["image"].mean((1, 2, 3)) < 0).float().mean()
    assert 0.4 < dark < 0.6


def test_factors_come_through_the_loader():
    """In grey too."""
    grey = Transform(CenterCrop(16), mode="L")
    for transform, channels in ((None, 3), (grey, 1)):
        batch = next(Loader(Shapes().build(), 4, seed=0, transform=transform).batches())
        assert batch["factors"].shape == (4, 4) and batch["image"].shape == (4, channels, 16, 16)


@pytest.mark.parametrize(
    "changes", [{"size": 8}, {"shapes": ("cube",)}, {"shapes": ()}, {"scales": 0}]
)
def test_what_cannot_be_drawn_is_refused(changes):
    with pytest.raises(ValueError, match=r"data\."):
        Shapes(**changes)
