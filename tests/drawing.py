"""What every bottleneck promises that draws its latents and that no stock class holds: each
function keeps a spec to one promise, as `contract` does of those with codes.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import contract
import tiny
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.recipes.tokenizer import Continued, NewTokenizer
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import Bottleneck
from contract import Spec, features, generators


def bottleneck(spec: Spec) -> Bottleneck:
    """In training."""
    torch.manual_seed(0)
    return spec.build()


def has_noise_of_each_sample(spec: Spec, out: Path) -> None:
    made, h = bottleneck(spec), features(spec)
    for mode in (made.train(), made.eval()):
        together = mode(h, generators()).z
        for j, own in enumerate(generators()):
            torch.testing.assert_close(mode(h[j : j + 1], [own]).z[0], together[j])
        assert not torch.equal(mode(h, generators()[::-1]).z, together)


def is_the_same_for_every_sample_of_a_repeated_batch(spec: Spec, out: Path) -> None:
    made, h = bottleneck(spec), features(spec)
    fresh = [each for _ in range(3) for each in generators()]
    once, thrice = made(h, generators()), made(h.repeat(3, 1, 1, 1), fresh)
    torch.testing.assert_close(once.z.repeat(3, 1, 1, 1), thrice.z)
    assert once.divergence is not None and thrice.divergence is not None
    assert once.divergence.shape == (8,) and (once.divergence > 0).all()
    torch.testing.assert_close(once.divergence.repeat(3), thrice.divergence)
    torch.testing.assert_close(once.rates["kl"], spec.kl_weight * once.divergence)


def ignores_autocast(spec: Spec, out: Path) -> None:
    made, h = bottleneck(spec), features(spec).bfloat16()
    plain = made(h, generators())
    with torch.autocast("cpu", torch.bfloat16):
        cast = made(h, generators())
    assert cast.z.dtype == torch.float32 and torch.equal(cast.z, plain.z)
    assert torch.equal(cast.rates["kl"], plain.rates["kl"])


def hands_gradients_on(spec: Spec, out: Path) -> None:
    """From z and from the divergence, to all that it reads; and to its own parameters."""
    made, h = bottleneck(spec), features(spec).requires_grad_()
    for part in ("z", "divergence"):
        latent = made(h, generators())
        (found,) = torch.autograd.grad(getattr(latent, part).square().sum(), h)
        assert found.isfinite().all() and found.flatten(2).abs().sum((0, 2)).gt(0).any()
    latent = made(h, generators())
    (latent.z.square().sum() + latent.divergence.sum()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def stays_finite(spec: Spec, out: Path) -> None:
    made = bottleneck(spec)
    for scale in (0.0, 50.0, 1e4):
        h = (scale * features(spec)).requires_grad_()
        latent = made(h, generators())
        assert latent.z.isfinite().all() and latent.divergence.isfinite().all()
        (latent.z.sum() + latent.divergence.sum()).backward()
        assert h.grad is not None and h.grad.isfinite().all()


@torch.no_grad()
def unpacks_what_it_packs(spec: Spec, out: Path) -> None:
    made, h = bottleneck(spec).eval(), features(spec)
    packed = made.pack(h)
    assert torch.equal(packed, made.pack(h)) and torch.equal(packed[2:3], made.pack(h[2:3]))
    z, drawn = made.unpack(packed, generators()), made(h, generators()).z
    assert z.shape == made.mode(h).shape == drawn.shape == (8, spec.channels, 4, 4)
    if packed.dtype == torch.uint8:
        assert torch.equal(z, packed.float())
    else:
        assert torch.equal(z, drawn)


@torch.no_grad()
def is_drawn_from_its_prior(spec: Spec, out: Path) -> None:
    """Where the posterior is the prior nothing is paid, and draws of both are alike."""
    made = bottleneck(spec).eval()
    chance = [torch.Generator().manual_seed(key) for key in range(3)]
    z = made.sample_prior(4, 4, chance)
    assert z.shape == (3, spec.channels, 4, 4)
    again = made.sample_prior(4, 4, [torch.Generator().manual_seed(1)])
    assert torch.equal(z[1:2], again)


@torch.no_grad()
def weighs_what_it_draws(spec: Spec, out: Path) -> None:
    """The mean of ln q - ln p is the divergence, and that of p / q is 1."""
    made, many = bottleneck(spec).eval(), 20_000
    h = 0.5 * features(spec, count=1)[:, :, :1, :1]
    z, ratio = made.weigh(h.expand(many, -1, -1, -1))
    assert z.shape == (many, spec.channels, 1, 1)
    error = ratio.std() / many**0.5
    divergence = made(h).divergence
    assert divergence is not None
    assert abs(-ratio.mean() - divergence[0]) < 4 * error + 1e-4
    assert abs(ratio.exp().mean() - 1) < 4 * ratio.exp().std() / many**0.5 + 1e-4


@torch.no_grad()
def is_saved_and_loaded(spec: Spec, out: Path) -> None:
    torch.manual_seed(0)
    made = ImageTokenizer(tiny.BACKBONE.autoencoder(spec, tiny.SIZE), spec.build()).eval()
    for parameter in made.bottleneck.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    image = tiny.images(8)
    made.save(out / "model")
    assert made.export() is None
    loaded = ImageTokenizer.load(out / "model")
    assert loaded.bottleneck.spec == spec
    assert torch.equal(loaded.pack(image), made.pack(image))
    torch.testing.assert_close(loaded.reconstruct(image), made.reconstruct(image))
    assert fingerprint(loaded) == fingerprint(made)


def goes_on(spec: Spec, out: Path) -> None:
    """A recipe trains it, leaves its latents alone, and another goes on with all of it."""
    first = tiny.tokenizer_recipe(out / "a", model=NewTokenizer(tiny.BACKBONE, spec), measure=16)
    with pytest.warns(UserWarning, match="no stock class holds what"):
        folder = train_tokenizer(first)
    was = ImageTokenizer.load(folder)
    made = Continued(str(folder)).build(tiny.SIZE)
    assert made.bottleneck.spec == spec and made.bottleneck.taken == first.run.steps
    for name, value in was.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


PROMISES: list[Callable[[Spec, Path], None]] = [
    has_noise_of_each_sample,
    is_the_same_for_every_sample_of_a_repeated_batch,
    ignores_autocast,
    hands_gradients_on,
    stays_finite,
    unpacks_what_it_packs,
    is_drawn_from_its_prior,
    weighs_what_it_draws,
    is_saved_and_loaded,
    goes_on,
    contract.continues_exactly,
    contract.accumulates,
]
