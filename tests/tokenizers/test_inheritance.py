"""A new tokenizer begins with a trained one's encoder and decoder, whatever stands between."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import tiny
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import ImageTokenizer, inherit
from calotype.tokenizers.bottlenecks import VQ, Gaussian
from calotype.tokenizers.bottlenecks.codebook import Codebook


def around_the_codes(tokenizer: ImageTokenizer, images: torch.Tensor) -> torch.Tensor:
    """What is decoded of features that no code replaces."""
    features: Any = tokenizer.features(images)
    return tokenizer.decode(features[:, : tokenizer.bottleneck.z_channels])


@pytest.mark.parametrize(("channels", "features"), [(2, 4), (2, 8), (6, 8)])
def test_but_for_its_codes_the_heir_rebuilds_as_the_source_does(channels, features):
    """Where its waist is wider, too."""
    source = tiny.tokenizer(3, Gaussian(channels=2))
    heir = tiny.tokenizer(4, VQ(Codebook(8, channels), features=features))
    inherit(heir, source)
    images = tiny.images(4)
    with torch.no_grad():
        torch.testing.assert_close(around_the_codes(heir, images), source.reconstruct(images))


def test_the_source_stays_as_it_was_and_all_of_the_heir_is_trained():
    source, heir = tiny.tokenizer(3), tiny.tokenizer(4)
    before = {name: weight.clone() for name, weight in source.state_dict().items()}
    inherit(heir, source)
    with torch.no_grad():
        for parameter in heir.parameters():
            parameter.add_(1)
    assert all(torch.equal(weight, before[name]) for name, weight in source.state_dict().items())
    assert all(parameter.requires_grad for parameter in heir.parameters())


def test_another_backbone_is_refused(tmp_path):
    tiny.tokenizer(0).save(tmp_path / "source")
    wider = replace(tiny.BACKBONE, widths=(8, 32))
    model = NewTokenizer(wider, tiny.VQ_BOTTLENECK, start=str(tmp_path / "source"))
    with pytest.raises(ValueError, match=r"model\.start: .*same backbone"):
        model.build(tiny.SIZE)


def test_a_run_that_goes_on_from_another_start_is_refused(tmp_path):
    """And one whose start has only moved is not."""
    for seed, name in ((0, "source"), (0, "moved"), (1, "other")):
        tiny.tokenizer(seed).save(tmp_path / name)

    def recipe(name: str, **changes: Any):
        recipe = tiny.token_recipes(tmp_path)[0]
        model = NewTokenizer(tiny.BACKBONE, tiny.VQ_BOTTLENECK, str(tmp_path / name))
        return replace(recipe, model=model, run=replace(recipe.run, **changes))

    train_tokenizer(recipe("source"))
    train_tokenizer(recipe("moved", resume=True))
    with pytest.raises(ValueError, match="start"):
        train_tokenizer(recipe("other", resume=True))
