"""The Gaussian bottleneck: its divergence, its noise, what it packs."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from calotype.tokenizers import Backbone, Gaussian
from calotype.tokenizers.bottlenecks.base import WAIST

BOTTLENECK = Gaussian(channels=3, kl_weight=0.5).build()
H = 2 * torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0))


def generators(*keys: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(key) for key in keys]


def test_kl_is_the_closed_form_summed_over_each_image():
    mean, log_variance = H.chunk(2, 1)
    posterior, prior = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
    expected = 0.5 * kl_divergence(posterior, prior).sum((1, 2, 3))
    torch.testing.assert_close(BOTTLENECK(H).rates["kl"], expected)


def test_the_weight_rises_where_it_is_asked_to():
    rising = Gaussian(channels=3, kl_weight=0.5, kl_warmup=4).build()
    whole = BOTTLENECK(H).rates["kl"]
    for step, part in ((0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)):
        rising.step_begin(step)
        found = rising(H)
        torch.testing.assert_close(found.rates["kl"], part * whole)
        assert found.divergence is not None and torch.equal(found.divergence, 2 * whole)
    with pytest.raises(ValueError, match=r"bottleneck\.kl_warmup is -1"):
        Gaussian(kl_warmup=-1)


def test_kl_is_batch_invariant():
    repeated = BOTTLENECK(H.repeat(3, 1, 1, 1)).rates["kl"]
    torch.testing.assert_close(repeated, BOTTLENECK(H).rates["kl"].repeat(3))


def test_noise_belongs_to_the_sample():
    together = BOTTLENECK(H, generators(5, 6, 7, 8)).z
    for j, key in enumerate((5, 6, 7, 8)):
        alone = BOTTLENECK(H[j : j + 1], generators(key)).z
        assert torch.equal(alone[0], together[j])
    assert not torch.equal(together, BOTTLENECK(H, generators(5, 6, 7, 9)).z)


def test_draws_have_the_posteriors_moments():
    h = H[:1].expand(4000, -1, -1, -1)
    z = BOTTLENECK(h, generators(*range(4000))).z
    mean, log_variance = H[0].chunk(2, 0)
    std = (log_variance / 2).exp()
    assert ((z.mean(0) - mean).abs() / std).max() < 0.08
    assert (z.std(0) / std - 1).abs().max() < 0.06


def test_unpacked_moments_draw_what_the_bottleneck_draws():
    packed = BOTTLENECK.pack(H.bfloat16())
    assert packed.dtype == torch.float32 and torch.equal(packed, H.bfloat16().float())
    z = BOTTLENECK.unpack(BOTTLENECK.pack(H), generators(1, 2, 3, 4))
    assert torch.equal(z, BOTTLENECK(H, generators(1, 2, 3, 4)).z)


def test_gradients_reach_mean_and_variance():
    h = H.clone().requires_grad_()
    BOTTLENECK(h, generators(1, 2, 3, 4)).z.square().sum().backward()
    assert h.grad is not None and (h.grad != 0).all()


def test_computes_in_float32():
    latent = BOTTLENECK(H.bfloat16())
    assert latent.z.dtype == latent.rates["kl"].dtype == torch.float32


def test_an_orthogonal_waist_keeps_the_channels_of_z_apart():
    """And leaves the rest as it was. Orthogonal: no direction is lost, none is favoured."""
    torch.manual_seed(0)
    backbone = Backbone(widths=(8, 16), layers=1, attention=False, groups=4)
    model = backbone.autoencoder(Gaussian(channels=4, orthogonal=True, initial_std=0.5), size=16)
    for name in WAIST:
        weight = model.get_parameter(f"{name}.weight").flatten(1)
        gram = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(gram, torch.eye(len(gram)))
    stock = model.get_parameter("encoder.conv_in.weight").flatten(1)
    assert (stock @ stock.T - torch.eye(len(stock))).abs().max() > 0.1
    # What stands in the bias for the deviation stays.
    shift = model.quant_conv.bias[4:].detach().mean()
    assert abs(shift - 2 * torch.tensor(0.5).log()) < 0.3
