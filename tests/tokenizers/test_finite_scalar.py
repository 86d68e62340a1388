"""FSQ: its grid, its bounds, its gradient."""

import math

import pytest
import torch

import contract
from calotype.tokenizers import fingerprint
from calotype.tokenizers.bottlenecks import FSQ

SPEC = FSQ((4, 3, 5))
GRIDS = [SPEC, FSQ((2, 8)), FSQ((7,)), FSQ((8, 5, 5, 5))]


@pytest.mark.parametrize("promise", contract.PROMISES)
def test_keeps_the_contract(promise, tmp_path):
    promise(SPEC, tmp_path)


@pytest.mark.parametrize("spec", GRIDS, ids=str)
def test_every_code_is_found_again(spec):
    """A code, taken back through the bound, is a feature that finds it."""
    bottleneck = spec.build()
    ids = torch.arange(bottleneck.codes)[:, None, None]
    levels = bottleneck.embed(ids) * (bottleneck.levels[:, None, None] // 2)
    grid = torch.linspace(-8, 8, 4001)
    x = torch.empty_like(levels)
    bounded = bottleneck.bound(grid[:, None, None, None].expand(-1, spec.channels, 1, 1))
    for c in range(spec.channels):
        x[:, c, 0, 0] = grid[(bounded[:, c, 0] - levels[:, c, 0].T).abs().argmin(0)]
    assert torch.equal(bottleneck.find(x), ids)
    assert len(bottleneck.embed(ids).flatten(1).unique(dim=0)) == math.prod(spec.levels)


@pytest.mark.parametrize("spec", GRIDS, ids=str)
def test_no_feature_leaves_the_grid(spec):
    bottleneck = spec.build()
    far = torch.tensor([-1e4, 0, 1e4])[:, None, None, None].expand(-1, spec.channels, 1, 1)
    digits = bottleneck.bound(far).round() + bottleneck.levels[:, None, None] // 2
    assert torch.equal(digits[0], torch.zeros_like(digits[0]))
    assert torch.equal(digits[2, :, 0, 0], bottleneck.levels - 1.0)
    assert bottleneck.embed(bottleneck.find(far)).abs().max() <= 1


def test_zero_stays_about_zero():
    bottleneck = FSQ((3, 4, 5, 6, 7, 8)).build()
    assert bottleneck.bound(torch.zeros(1, 6, 1, 1)).abs().max() < 1e-3


def test_the_gradient_is_the_bounds():
    bottleneck = SPEC.build()
    h = contract.features(SPEC).requires_grad_()
    other = h.detach().clone().requires_grad_()
    weight = torch.randn_like(h)
    latent = bottleneck(h)
    assert latent.penalties == {} and latent.rates == {}
    (latent.z * weight).sum().backward()
    (bottleneck.bound(other) / (bottleneck.levels[:, None, None] // 2) * weight).sum().backward()
    assert h.grad is not None and other.grad is not None
    torch.testing.assert_close(h.grad, other.grad)


def test_bug_bfloat16_merges_codes():
    """Ids are not summed in bfloat16, which has no odd numbers above 256 (vector-quantize-pytorch,
    issue 114).
    """
    spec = FSQ((8, 5, 5, 5))
    h = 2 * contract.features(spec, count=4096).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert len(spec.build().pack(h).unique()) == 1000


def test_a_fingerprint_knows_the_levels():
    ours, other = contract.tokenizer(FSQ((4, 4))), contract.tokenizer(FSQ((4, 5)))
    other.autoencoder.load_state_dict(ours.autoencoder.state_dict())
    assert fingerprint(ours) != fingerprint(other)


@pytest.mark.parametrize("levels", [(), (1, 5), (8,) * 9])
def test_impossible_levels_are_refused(levels):
    with pytest.raises(ValueError, match=r"bottleneck\.levels"):
        FSQ(levels)
