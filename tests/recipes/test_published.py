"""Recipes hold what was published, and fit together."""

import pytest
import torch

from calotype.recipes.discrete import DISCRETE
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizer import NewTokenizer
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers.bottlenecks import VQ, Gumbel
from calotype.tokenizers.bottlenecks.codebook import Cosine
from calotype.tokenizers.terms import Adaptive, Fixed, Hinge, HingeNonSaturating, LogitLaplace
from calotype.training import AdamW

PUBLISHED = {
    "scenes-vq": (8, 512, 8),
    "scenes-dvae": (8, 512, 32),
    "ldm-vq-f4": (64, 8192, 3),
    "vqgan-f16": (16, 1024, 256),
    "llamagen-vq-f16": (16, 16384, 8),
    "dalle-dvae-f8": (32, 8192, 128),
    "ldm-dvae-f8": (32, 8192, 128),
    "magvit2-lfq-f16": (16, 2**18, 18),
    "fsq-f8": (32, 15360, 5),
}
"""Sites a side, codes, channels of a code."""


@pytest.mark.parametrize("name", DISCRETE)
def test_sites_and_codes_are_the_published_ones(name):
    """Counted on the networks themselves, which have no weights here."""
    recipe = DISCRETE[name]()
    assert isinstance(recipe.model, NewTokenizer)
    with torch.device("meta"):
        made = recipe.model.build(recipe.size, recipe.mode, recipe.pixel.maps)
        features = made.features(torch.empty(1, 3, recipe.size, recipe.size))
        maps = made.decode_maps(torch.empty(1, made.bottleneck.z_channels, *features.shape[2:]))
    side, codes, channels = PUBLISHED[name]
    assert features.shape == (1, channels, side, side)
    assert (made.bottleneck.codes, made.bottleneck.z_channels) == (codes, channels)
    assert maps.shape == (1, 3 * recipe.pixel.maps, recipe.size, recipe.size)
    assert str(recipe.run.out) == f"runs/{name}"


def test_the_dvae_follows_its_three_schedules():
    """Ramesh et al. 2021, appendix A: temperature, KL weight and learning rate."""
    recipe = DISCRETE["dalle-dvae-f8"]()
    assert isinstance(recipe.model, NewTokenizer)
    spec = recipe.model.bottleneck
    assert isinstance(spec, Gumbel) and isinstance(recipe.pixel, LogitLaplace)
    assert [spec.temperature.at(s) for s in (0, 75_000, 150_000, 10**6)] == pytest.approx(
        [1, (1 + 1 / 16) / 2, 1 / 16, 1 / 16]
    )
    assert [spec.kl_weight.at(s) for s in (0, 2500, 5000, 10**6)] == pytest.approx(
        [0, 3.3, 6.6, 6.6]
    )
    rates = [recipe.optimizer.rate(s, recipe.run.steps) for s in (0, 600_000, 1_200_000, 2_999_999)]
    assert rates == pytest.approx([1e-4, (1e-4 + 1.25e-6) / 2, 1.25e-6, 1.25e-6])
    assert recipe.pixel.epsilon == 0.1 and recipe.pixel.weight == 1
    assert recipe.run.batch_size == 512
    assert recipe.model.backbone.widths == (256, 512, 1024, 2048)


@pytest.mark.parametrize(
    ("name", "balance", "start", "lr", "betas"),
    [
        ("ldm-vq-f4", Adaptive(0.75, 1e4), 0, 8 * 4.5e-6, (0.5, 0.9)),
        ("vqgan-f16", Adaptive(0.8, 1e4), 250_001, 12 * 4.5e-6, (0.5, 0.9)),
        ("llamagen-vq-f16", Fixed(0.5), 20_000, 1e-4, (0.9, 0.95)),
        ("magvit2-lfq-f16", Fixed(0.1), 0, 1e-4, (0.5, 0.9)),
        ("fsq-f8", Adaptive(0.75, 1e4), 0, 8 * 4.5e-6, (0.5, 0.9)),
    ],
)
def test_adversaries_are_weighed_and_begin_as_published(name, balance, start, lr, betas):
    recipe = DISCRETE[name]()
    assert recipe.adversary is not None
    assert (recipe.adversary.balance, recipe.adversary.effect_start) == (balance, start)
    assert recipe.adversary.lr == recipe.optimizer.lr == pytest.approx(lr)
    pair = HingeNonSaturating if name == "magvit2-lfq-f16" else Hinge
    assert type(recipe.adversary.loss) is pair
    assert recipe.optimizer == AdamW(lr, betas, schedule=recipe.optimizer.schedule)


@pytest.mark.parametrize("name", ["ldm-vq-f4", "vqgan-f16", "llamagen-vq-f16"])
def test_beta_is_on_the_commitment(name):
    """In the released code of the first two it weighs the codebook's pull instead."""
    model = DISCRETE[name]().model
    assert isinstance(model, NewTokenizer) and isinstance(model.bottleneck, VQ)
    assert model.bottleneck.commitment == 0.25 and model.bottleneck.codebook.learning.weight == 1
    cosine = isinstance(model.bottleneck.codebook.similarity, Cosine)
    assert cosine == (name == "llamagen-vq-f16")


@pytest.mark.parametrize(("name", "batch", "steps", "clip", "optimizer", "network"), [
    ("dalle-small", 1024, 430_000, 4.0, (4.5e-4, (0.9, 0.96), 4.5e-2), (1024, 12, 16, 0.0)),
    ("llamagen-b", 256, 1_501_200, 1.0, (1e-4, (0.9, 0.95), 0.05), (768, 12, 12, 0.1)),
])  # fmt: skip
def test_transformers_are_trained_as_published(name, batch, steps, clip, optimizer, network):
    """Ramesh et al. 2021, sections 2.2 and B.2; Sun et al. 2024: 300 epochs of 1,281,167 images,
    5004 batches each."""
    recipe = GENERATORS[name]()
    assert isinstance(recipe, TransformerRecipe)
    run, adam, spec = recipe.run, recipe.optimizer, recipe.transformer
    assert (run.batch_size, run.steps, run.clip) == (batch, steps, clip)
    assert (adam.lr, adam.betas, adam.weight_decay) == optimizer
    assert (spec.width, spec.layers, spec.heads, spec.dropout) == network
    assert (recipe.drop, recipe.image_weight) == (0.1, 7.0)
