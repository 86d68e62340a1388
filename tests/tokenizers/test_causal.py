"""Factors that cause one another: what follows from what, what is refused, and what `do` moves."""

from dataclasses import replace

import pytest
import torch

import tiny
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Digits, Pendulum, Scenes, Transform
from calotype.recipes.tokenizer import Continued, NewTokenizer
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Causal
from calotype.tokenizers.bottlenecks.causal import CausalBottleneck
from calotype.tokenizers.vector import Dense
from calotype.training.noise import generators

SPEC = Causal((2, 0, 1), hidden=4)
"""Of which 2 is the first cause and 1 the last effect."""
KEYS = range(8)


def made() -> CausalBottleneck:
    torch.manual_seed(0)
    return SPEC.build()


def read(spec: Causal = SPEC) -> torch.Tensor:
    return torch.randn(8, spec.inputs, 1, 1, generator=torch.Generator().manual_seed(1))


def factors() -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(2))


def test_what_is_a_factors_own_makes_it_again():
    mechanisms, found = made().mechanisms, factors()
    torch.testing.assert_close(mechanisms(mechanisms.own(found)), found)


def test_nothing_acts_against_the_order():
    mechanisms = made().mechanisms
    assert torch.equal(mechanisms.edges != 0, torch.tensor([[0, 1, 0], [0, 0, 0], [1, 1, 0]]) > 0)
    own = factors()
    for later, earlier in ((0, [2]), (1, [2, 0])):
        changed = own.clone()
        changed[:, later] += 1
        assert torch.equal(mechanisms(changed)[:, earlier], mechanisms(own)[:, earlier])


def test_do_moves_a_factor_and_its_effects_alone():
    bottleneck = made()
    z = bottleneck.mode(read())
    moved = (bottleneck.do(z, 0, 2.0) - z)[..., 0, 0]
    torch.testing.assert_close(z[:, 0, 0, 0] + moved[:, 0], torch.full((8,), 2.0))
    assert moved[:, 1].abs().min() > 1e-3 and moved[:, 2].abs().max() < 1e-6
    # Set to what it is, nothing moves: what is the others' own was kept.
    torch.testing.assert_close(bottleneck.do(z, 0, z[:, 0, 0, 0]), z)


def test_the_divergence_is_that_of_normal_distributions():
    bottleneck, h = made(), read()
    with torch.no_grad():
        bottleneck.log_deviation.copy_(torch.tensor([0.3, 1.0, 2.0]).log())
    mean, log_variance = h[..., 0, 0].chunk(2, 1)
    prior = torch.distributions.Normal(0.0, torch.tensor([0.3, 1.0, 2.0]))
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(bottleneck(h).divergence, expected)


def test_it_weighs_what_it_draws():
    bottleneck, h = made(), read()[:1]
    z, ratio = bottleneck.weigh(h.expand(20_000, -1, -1, -1))
    latent = bottleneck(h)
    assert z.shape == (20_000, 3, 1, 1) and latent.divergence is not None
    torch.testing.assert_close(-ratio.mean(), latent.divergence[0].detach(), rtol=0.03, atol=0)


def test_noise_and_terms_are_each_samples():
    bottleneck, h, told = made(), read(), factors()
    together = bottleneck(h, generators(KEYS), told)
    assert together.penalties.keys() == {"labels", "mechanisms", "sparsity"}
    for j in KEYS:
        alone = bottleneck(h[j : j + 1], generators([j]), told[j : j + 1])
        torch.testing.assert_close(alone.z[0], together.z[j])
        for terms, own in ((together.penalties, alone.penalties), (together.rates, alone.rates)):
            assert all(torch.isclose(own[name][0], terms[name][j]) for name in terms)
    unpacked = bottleneck.unpack(bottleneck.pack(h), generators(KEYS))
    assert torch.equal(unpacked, together.z)
    torch.testing.assert_close(
        together.penalties["labels"], (bottleneck.mode(h)[..., 0, 0] - told).square().mean(1)
    )


def test_all_of_it_learns():
    bottleneck, h = made(), read().requires_grad_()
    latent = bottleneck(h, generators(KEYS), factors())
    every = [latent.z.square(), latent.divergence, *latent.penalties.values()]
    sum(each.sum() for each in every).backward()
    assert h.grad is not None and h.grad.flatten(1).any(0).all()
    assert all(p.grad is not None and p.grad.any() for p in bottleneck.parameters())


@pytest.mark.parametrize(("change", "message"), [
    ({"order": (0, 2)}, "bottleneck.order is .0, 2.: it names each of 0 to 1 once"),
    ({"hidden": 0}, "bottleneck.hidden is 0"),
    ({"labels": -1.0}, "bottleneck.labels is -1.0"),
])  # fmt: skip
def test_refuses_what_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Causal(**change)


def recipe(root, **changes):
    model = NewTokenizer(Dense((16,)), Causal(hidden=4))
    base = tiny.tokenizer_recipe(root, data=Pendulum(16, count=32), model=model, measure=16)
    return replace(base, **changes)


def test_data_that_tells_no_factors_or_others_is_refused(tmp_path):
    of_three = NewTokenizer(Dense((16,)), SPEC)
    without = {"data": Digits(), "transform": Transform(CenterCrop(16))}
    others = {"data": Scenes(16, count=32)}
    for change, has in ((without, "none"), (others, "5"), ({"model": of_three}, "4")):
        asked = recipe(tmp_path, **change)
        with pytest.raises(ValueError, match=f"data has {has}: choose data:pendulum"):
            train_tokenizer(asked)
    assert not (tmp_path / "tokenizer").exists()


def test_a_map_has_no_factors():
    with pytest.raises(ValueError, match=r"choose model\.backbone:pooled or model\.backbone:dense"):
        NewTokenizer(tiny.BACKBONE, SPEC).build(16)


def test_a_recipe_trains_it_and_goes_on(tmp_path):
    with pytest.warns(UserWarning, match="no stock class"):
        folder = train_tokenizer(recipe(tmp_path))
    was = ImageTokenizer.load(folder)
    made = Continued(str(folder)).build(16)
    images = Pendulum(16).build().batch(range(4))["image"]
    assert torch.equal(made.latents(images), was.latents(images))
    for name, value in was.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


def looking(images: torch.Tensor, told: torch.Tensor) -> torch.nn.Module:
    """What reads factors off pictures, better than to a tenth of a deviation."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 256), torch.nn.SiLU(),
        torch.nn.Linear(256, 256), torch.nn.SiLU(), torch.nn.Linear(256, 4),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        rows = torch.randint(len(images), (128,))
        # Decoded pictures are a little blurred, as none that are drawn.
        seen = images[rows] + 0.03 * torch.randn_like(images[rows])
        optimizer.zero_grad()
        (network(seen) - told[rows]).square().mean().backward()
        optimizer.step()
        schedule.step()
    return network.requires_grad_(False)


@torch.no_grad()
def moved(
    tokenizer: ImageTokenizer, oracle: torch.nn.Module, images: torch.Tensor, factor: int
) -> torch.Tensor:
    """By how many deviations each factor of what is decoded moves, where one is set to -1 and then
    to 1."""
    bottleneck, z = tokenizer.bottleneck, tokenizer.latents(images)
    assert isinstance(bottleneck, CausalBottleneck)
    low, high = (oracle(tokenizer.decode(bottleneck.do(z, factor, to))) for to in (-1.0, 1.0))
    return (high - low).abs().mean(0)
