"""RVQ: each stage quantises what the earlier ones left."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import contract
from calotype.tokenizers.bottlenecks import RVQ
from calotype.tokenizers.bottlenecks.codebook import (
    EMA,
    Codebook,
    CodebookLoss,
    Cosine,
    KMeans,
    Restart,
)
from calotype.training.noise import generators

CODEBOOK = Codebook(16, 3, EMA(0.9), KMeans(2), Restart(0.5, every=2))
SPECS = {
    "average": RVQ(3, CODEBOOK),
    "loss": RVQ(3, replace(CODEBOOK, learning=CodebookLoss())),
}
SPEC = SPECS["loss"]


@pytest.mark.parametrize("promise", contract.PROMISES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_keeps_the_contract(spec, promise, tmp_path):
    promise(spec, tmp_path)


def left_by_stage(bottleneck, x: torch.Tensor) -> list[float]:
    """Mean squared norm of what each stage leaves."""
    ids = bottleneck.find(x)
    left = []
    for stage, own in zip(bottleneck.stages, ids.unbind(1), strict=True):
        x = x - stage.embed(own)
        left.append(x.square().mean().item())
    return left


def test_residuals_shrink_from_stage_to_stage():
    bottleneck, h = RVQ(4, CODEBOOK).build(), contract.features(SPEC, count=64)
    bottleneck.survey([h], list(range(64)))
    left = [h.square().mean().item(), *left_by_stage(bottleneck, h)]
    assert all(b < 0.6 * a for a, b in pairwise(left))


def test_a_survey_of_parts_begins_as_one_of_the_whole():
    h, keys = contract.features(SPEC, count=8), list(range(8))
    whole, parts = SPEC.build(), SPEC.build()
    assert whole.wants_survey(1)
    whole.survey([h], keys)
    parts.survey([h[:4], h[4:]], keys)
    assert not whole.wants_survey(1)
    for a, b in zip(whole.stages, parts.stages, strict=True):
        assert torch.equal(a.codes, b.codes)


def test_z_is_the_sum_of_codes_and_its_gradient_the_identity():
    bottleneck = contract.bottleneck(SPEC)
    h = contract.features(SPEC).requires_grad_()
    latent = bottleneck(h)
    assert latent.ids.shape == (8, 3, 4, 4)
    parts = [s.codes[own] for s, own in zip(bottleneck.stages, latent.ids.unbind(1), strict=True)]
    torch.testing.assert_close(latent.z, torch.stack(parts).sum(0).movedim(-1, 1))
    weight = torch.randn_like(h)
    (latent.z * weight).sum().backward()
    assert h.grad is not None and torch.equal(h.grad, weight)
    assert all(p.grad is None for p in bottleneck.parameters())


def test_penalties_are_means_over_stages():
    bottleneck = contract.bottleneck(SPEC)
    h = contract.features(SPEC).requires_grad_()
    latent = bottleneck(h)
    distances, left = [], h.detach()
    for stage, own in zip(bottleneck.stages, latent.ids.unbind(1), strict=True):
        left = left - stage.codes[own].movedim(-1, 1)
        distances.append(left.square().mean((1, 2, 3)))
    expected = torch.stack(distances).mean(0)
    torch.testing.assert_close(latent.penalties["commitment"], 0.25 * expected)
    torch.testing.assert_close(latent.penalties["codebook"], expected)
    latent.penalties["codebook"].sum().backward()
    assert h.grad is None
    grads = [p.grad for p in bottleneck.parameters()]
    assert len(grads) == 3 and all(g is not None and g.any() for g in grads)
    assert contract.bottleneck(SPECS["average"])(h).penalties.keys() == {"commitment"}


def test_dead_codes_restart_among_their_own_stages_residuals():
    bottleneck, h = contract.bottleneck(SPEC), contract.features(SPEC)
    with torch.no_grad():
        bottleneck.stages[1].embedding[3] = 99.0
    bottleneck.usage[1, 3] = 0
    bottleneck.step_begin(1)
    bottleneck(h, generators(range(8)))
    x = bottleneck.own(h)
    left = x - bottleneck.stages[0].embed(bottleneck.stages[0].find(x))
    rows = bottleneck.step_end()
    (which,) = [which for p, which in rows if p is bottleneck.stages[1].embedding]
    assert which[3] and bottleneck.usage[1, 3] == pytest.approx(1 / 16, rel=0.02)
    anew = bottleneck.stages[1].codes[3]
    assert (left.movedim(1, -1) - anew).abs().amax(-1).min() < 1e-6


def test_no_stock_class_is_promised():
    assert contract.tokenizer(SPEC).export() is None


def test_a_sphere_is_refused():
    with pytest.raises(ValueError, match=r"codebook\.similarity is Cosine"):
        RVQ(2, replace(CODEBOOK, similarity=Cosine()))


def test_no_books_are_refused():
    with pytest.raises(ValueError, match=r"bottleneck\.codebooks is 0"):
        RVQ(0)
