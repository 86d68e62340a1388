"""Images of 8 bits become on the device what they were as floats, and every mode can be seen."""

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from calotype.data import Loader, Pictures, Reader, Record, once
from calotype.data.reading.transforms import eight_bits
from calotype.training import fit
from calotype.training.images import in_colour, over_black, scaled, sent_batch, visible
from calotype.training.sheet import draw_sheet

LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def test_every_level_is_scaled_to_the_bit():
    """As workers did it before, in NumPy."""
    before = LEVELS.numpy().astype(np.float32)
    before /= np.float32(127.5)
    before -= np.float32(1)
    assert scaled(LEVELS).numpy().tobytes() == before.tobytes()
    assert torch.equal(eight_bits(scaled(LEVELS)), LEVELS)


def test_what_is_floating_stays_as_it_is():
    floats = torch.rand(2, 3, 4, 4)
    assert scaled(floats) is floats


def test_only_the_image_of_a_batch_is_scaled():
    batch = {"image": LEVELS, "mask": LEVELS, "caption": ["a"], "key": [1]}
    sent = sent_batch(batch, torch.device("cpu"))
    assert torch.equal(sent["image"], scaled(LEVELS)) and torch.equal(sent["mask"], LEVELS)
    assert sent["caption"] == ["a"] and sent["key"] == [1] and batch["image"] is LEVELS


def test_training_on_8_bits_is_training_on_floats_to_the_bit(tmp_path):
    rows = {"image": eight_bits(tiny.images(8))}
    weights = []
    for name, given in (("bits", rows), ("floats", {"image": scaled(rows["image"])})):
        (objective,) = tiny.learners(lpips=False)
        (tmp_path / name).mkdir()
        fit([objective], tiny.Repeating(given, 4), tiny.run(tmp_path / name))
        weights.append(objective.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_give_a_quarter_of_the_bytes(workers):
    drawn = [Record(Image.new("RGB", (8, 8), (i, 0, 0)), f"{i}", "") for i in range(4)]
    pictures = Pictures(drawn, Reader("stop", "drawn"))
    for batches in (once(pictures, 4, workers=workers),
                    Loader(pictures, 4, seed=0, workers=workers).batches()):  # fmt: skip
        image = next(batches)["image"]
        assert image.dtype == torch.uint8 and image.nbytes == 4 * 3 * 8 * 8


def test_alpha_is_seen_on_black_and_over_a_checkerboard():
    red, none, half = (1.0, -1.0, -1.0, 1.0), (1.0, 1.0, 1.0, -1.0), (1.0, 0.0, 0.0, 0.0)
    images = torch.tensor([red, none, half]).view(3, 4, 1, 1).expand(3, 4, 16, 16)
    black = over_black(images)[:, :, 0, 0]
    assert black.tolist() == [[1, -1, -1], [-1, -1, -1], [0, -1, -1]]  # the last is red, half seen
    assert torch.equal(in_colour(images), images[:, :3])
    seen = visible(images)
    assert (seen[0] == torch.tensor(red[:3]).view(3, 1, 1)).all()
    assert len(seen[1].unique()) == 2 and seen[1].max() == 1 and seen[1].std() > 0.1
    assert (seen[2, 0] - seen[2, 1]).min() == pytest.approx(1)


def test_what_no_picture_can_be_stays_within_what_can_be_shown():
    """Black on white, and yet seen through: levels of 8 bits would begin anew at white."""
    impossible = -torch.ones(1, 4, 16, 16)
    impossible[:, 3] = 0
    seen = visible(impossible)
    assert seen.min() >= -1 and seen.max() < 0
    assert (np.asarray(draw_sheet(impossible, side=16))[8:24, 8:24] < 128).all()


def test_grey_is_seen_in_three_channels():
    grey = scaled(LEVELS)
    for seen in (visible(grey), in_colour(grey)):
        assert torch.equal(seen, grey.expand(1, 3, 16, 16))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_many_pictures_are_scaled_as_few_are(layout):
    """In memory of another kind, to the bit, and lying as they lay."""
    many = torch.randint(0, 256, (24, 3, 256, 256), dtype=torch.uint8).to(memory_format=layout)
    found = scaled(many)
    assert torch.equal(found, torch.cat([scaled(one) for one in many.split(1)]))
    assert found.stride() == many.stride() and found.dtype == torch.float32
    assert torch.equal(scaled(many[:, :, ::2]), found[:, :, ::2])  # that lie nowhere densely
