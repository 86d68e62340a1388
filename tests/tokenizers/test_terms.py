"""LPIPS gives its published value; broken backbones are refused before training."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from calotype.tokenizers.terms import (
    L1,
    L2,
    LPIPS,
    Adversary,
    BernoulliLikelihood,
    BinaryLikelihood,
    Huber,
)
from calotype.tokenizers.terms.perceptual import SMALLEST, PerceptualTerm, random_backbone

BACKBONES = Path(os.environ.get("CALOTYPE_BACKBONES", Path(__file__).parents[3] / "shared/weights"))


@pytest.mark.skipif(not BACKBONES.is_dir(), reason="CALOTYPE_BACKBONES names no folder of weights")
def test_lpips_has_its_published_value():
    """0.3494 for VGG on the package's documented random pairs."""
    term = LPIPS(backbone_weights=BACKBONES / "vgg16-features.safetensors").build()
    np.random.seed(123)
    a, b = (torch.from_numpy(np.random.rand(10, 3, 100, 100) * 2 - 1).float() for _ in range(2))
    with torch.no_grad():
        assert term(a, b).mean().item() == pytest.approx(0.3494, abs=1e-4)


def test_backbone_weights_land_in_their_places(tmp_path):
    source = random_backbone("alex", seed=5)
    names = {n: "features." + n.split(".", 1)[1] for n in source.net.state_dict()}
    save_file({names[n]: t for n, t in source.net.state_dict().items()}, tmp_path / "w.safetensors")
    term = LPIPS(net="alex", backbone_weights=tmp_path / "w.safetensors").build()
    a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(term(a, b), source(a, b).flatten())


def test_a_backbone_that_does_not_fit_is_named(tmp_path):
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"alex backbone needs features\.0\.weight"):
        LPIPS(net="alex", backbone_weights=tmp_path / "w.safetensors").build()
    with pytest.raises(ValueError, match=r"absent\.safetensors"):
        LPIPS(backbone_weights=tmp_path / "absent.safetensors").build()


def test_specs_name_the_field_that_cannot_be():
    for spec, field in ((partial(Huber, delta=0.0), "pixel.delta"),
                        (partial(Adversary, width=1), "adversary.width"),
                        (partial(Adversary, layers=0), "adversary.layers"),
                        (partial(Adversary, lr=0.0), "adversary.lr")):  # fmt: skip
        with pytest.raises(ValueError, match=field):
            spec()


@pytest.mark.parametrize("width", [2, 9, 17, 30, 64, 72, 100])
def test_a_discriminator_has_any_width(width):
    assert Adversary(width=width).build()(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 2, 2)


NETWORKS = [*(LPIPS(net=net) for net in SMALLEST), *(Adversary(layers=n) for n in (1, 2, 3))]


@pytest.mark.parametrize("spec", NETWORKS)
def test_images_too_small_for_a_network_are_refused_and_no_others(spec):
    network = random_backbone(spec.net, 0) if isinstance(spec, LPIPS) else spec.build()
    judge = (lambda x: network(x, x)) if isinstance(spec, LPIPS) else network
    least = next(size for size in range(1, 64) if _takes(judge, torch.zeros(1, 3, size, size)))
    spec.check(least)
    with pytest.raises(ValueError, match=rf"{least} pixels a side or more, not {least - 1}"):
        spec.check(least - 1)


def _takes(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> bool:
    try:
        return network(images).numel() > 0
    except RuntimeError:
        return False


@pytest.mark.parametrize(("spec", "value"), [(L1(), 0.3), (L2(), 0.09), (Huber(delta=0.1), 0.25)])
def test_pixel_terms_are_means_over_the_image(spec, value):
    real = torch.zeros(2, 3, 5, 7)
    torch.testing.assert_close(spec.build()(real + 0.3, real), torch.full((2,), value))


@pytest.mark.parametrize("net", SMALLEST)
def test_lpips_is_its_authors(net):
    """Their package's own forward pass, value and gradient."""
    network, found = random_backbone(net, 0), []
    real, other = torch.rand(2, 3, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for judge in (PerceptualTerm(network), lambda a, b: network(a, b).flatten()):
        fake = other.clone().requires_grad_()
        values = judge(fake, real)
        found.append((values.detach(), *torch.autograd.grad(values.sum(), fake)))
    torch.testing.assert_close(*found)
    assert (found[0][0] > 0).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_what_is_seen_of_an_original_is_computed_once(channels):
    """LPIPS of several reconstructions of it is what each alone has, to the bit."""
    term = PerceptualTerm(random_backbone("alex", 0))
    real, *several = torch.rand(4, 2, channels, 64, 64) * 2 - 1
    ran = []
    term.network.net.register_forward_hook(lambda *_: ran.append(1))
    score = term.beside(real)
    found = [score(fake) for fake in several]
    assert len(ran) == (2 if channels == 4 else 1) * (1 + len(several))
    for fake, value in zip(several, found, strict=True):
        assert torch.equal(value, term(fake, real))


def test_a_pixel_of_two_levels_is_as_likely_as_its_logit_says():
    emitted = torch.linspace(-3, 3, 25).double().view(1, 1, 5, 5)
    white = (torch.arange(25).view(1, 1, 5, 5) % 2 * 2 - 1).double()
    likely = (4.0 * emitted).sigmoid()
    expected = -torch.where(white > 0, likely, 1 - likely).log().mean().item()
    term = BinaryLikelihood(bound=4.0).build()
    assert term(emitted, white).item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"pixel\.bound is 0.0: it must be above 0"):
        BinaryLikelihood(bound=0.0)


def test_bug_the_ends_of_greys_were_steep_for_pixels_of_two_levels():
    """A logit that is read off a grey level rises five times faster at black and white than between
    them, and there all pixels of two levels are: digits cost a nat more.
    """

    def gains(term) -> torch.Tensor:
        emitted = torch.linspace(-1, 1, 41).view(1, 1, 1, 41).requires_grad_()
        (slope,) = torch.autograd.grad(term.interval.location(emitted).sum(), [emitted])
        return slope

    grey, binary = (gains(spec().build()) for spec in (BernoulliLikelihood, BinaryLikelihood))
    assert grey.max() > 5 * grey.min()
    assert binary.max() == binary.min() == 5
