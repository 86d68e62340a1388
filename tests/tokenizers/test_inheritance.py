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


@pytest.mark.parametrize(("channels", "features"), [(2, 2), (2, 16), (3, 6)])
@torch.no_grad()
def test_a_continuous_one_begins_with_one_of_codes(channels, features):
    """The other way round. What a joined layer adds to all sites is not there for the padding
    around them: the source adds nothing here."""
    source = tiny.tokenizer(3, VQ(Codebook(8, channels), features=features))
    source.autoencoder.post_quant_conv.bias.zero_()
    heir = tiny.tokenizer(4, Gaussian(channels=4, initial_std=0.1))
    inherit(heir, source)
    images = tiny.images(4)
    torch.testing.assert_close(
        heir.reconstruct(images), around_the_codes(source, images), atol=1e-4, rtol=1e-4
    )
    deviation = (heir.features(images)[:, 4:] / 2).exp()
    assert deviation.mean().item() == pytest.approx(0.1, rel=0.5), "of a posterior, as it was asked"


@torch.no_grad()
def test_joined_layers_do_the_same_but_at_the_border():
    source = tiny.tokenizer(3, VQ(Codebook(8, 2), features=16))
    heir = tiny.tokenizer(4, Gaussian(channels=4))
    inherit(heir, source)
    z = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    read = [
        made.autoencoder.decoder.conv_in(made.autoencoder.post_quant_conv(latent))[..., 1:-1, 1:-1]
        for made, latent in ((heir, z), (source, z[:, :2]))
    ]
    torch.testing.assert_close(*read, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("heir", [Gaussian(channels=2), VQ(Codebook(8, 2), features=8)])
def test_a_narrower_latent_keeps_the_first_channels_and_says_so(heir):
    """Bug: channels of codes stood where a posterior's deviation is read."""
    source, made = tiny.tokenizer(3, VQ(Codebook(8, 4), features=8)), tiny.tokenizer(4, heir)
    with pytest.warns(UserWarning, match="latents of 4 channels begin 2 of another bottleneck"):
        inherit(made, source)
    images = tiny.images(2)
    with torch.no_grad():
        kept = made.features(images)
        torch.testing.assert_close(
            kept[:, :2], source.features(images)[:, :2], atol=1e-5, rtol=1e-4
        )
        if isinstance(heir, Gaussian):
            assert (kept[:, 2:] / 2).exp().mean().item() == pytest.approx(1, rel=0.5)


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
    with pytest.raises(
        ValueError, match=r"model\.start: .*is 16x8x3x3 there and 32x8x3x3 here.*same"
    ):
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
