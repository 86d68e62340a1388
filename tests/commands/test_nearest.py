"""What was drawn stands beside the picture that it repeats."""

import torch

import tiny
from calotype.commands.nearest import nearest
from calotype.data import Folder
from calotype.pipelines import picture


def test_the_nearest_picture_is_found_mirrored_too(tmp_path, monkeypatch):
    monkeypatch.setattr("calotype.commands.nearest.BATCH", 2)
    images = tiny.images(5).clamp(-1, 1)
    for i, image in enumerate(images):
        picture(image).save(tmp_path / f"{i}.png")
    drawn = torch.stack([images[3], images[1].flip(-1), images[0]])
    drawn += 0.02 * torch.randn(drawn.shape, generator=torch.Generator().manual_seed(0))
    found = nearest(drawn, Folder(tmp_path), images.shape[-1])
    expected = torch.stack([images[3], images[1].flip(-1), images[0]])
    assert (found - expected).abs().max() < 0.02  # but for 8 bits
