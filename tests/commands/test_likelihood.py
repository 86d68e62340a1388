"""A tokenizer that is a model of pictures says how likely they are to it."""

import json
from dataclasses import replace

import pytest

import family
from calotype.commands.compare import Compare, compare
from calotype.commands.evaluate import Evaluate, evaluate
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Digits, once
from calotype.data.loading.batches import draw_keys
from calotype.data.pictures import spread
from calotype.evaluation.likelihood import importance_bound
from calotype.recipes.family import FAMILY, GREY, tiny
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Gaussian
from calotype.tokenizers.likelihood import FILE, kept_likelihood, likelihood_of
from calotype.tokenizers.terms import (
    L2,
    EmittedDeviation,
    GaussianLikelihood,
    LearntDeviation,
    LogitLaplace,
)
from calotype.tokenizers.terms.likelihoods import GaussianTerm
from calotype.training import AdamW

pytestmark = pytest.mark.filterwarnings("ignore:no stock class holds", "ignore:.*departs by")
HOW = {"data": Digits("test"), "count": 8, "lpips": (), "features": "efficientnet-lite0",
       "batch_size": 5, "importance_samples": 8}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A variational one whose deviation is learnt, and a plain one."""
    root = tmp_path_factory.mktemp("models")
    learnt = replace(tiny(FAMILY["digits-vae"](), root / "vae"), optimizer=AdamW(5e-3),
                     pixel=GaussianLikelihood(deviation=LearntDeviation(0.5)))  # fmt: skip
    return train_tokenizer(learnt), train_tokenizer(tiny(FAMILY["digits-ae"](), root / "ae"))


def test_the_bound_is_measured_with_all_else(models, tmp_path):
    found = evaluate(Evaluate(artifact=str(models[0]), out=tmp_path / "e.json", **HOW))
    told = json.loads(found.read_text())
    figures, errors = told["figures"], told["standard_errors"]
    assert told["protocol"]["importance_samples"] == 8
    assert told["notes"]["nll_nats"] == "by 8 latents of each picture"
    images = next(once(spread(Digits("test").build(), 8), 8, GREY))["image"]
    batches = [{"image": images[i : i + 5], "key": draw_keys(0, i, len(images[i : i + 5]))}
               for i in (0, 5)]  # fmt: skip
    tokenizer, term = ImageTokenizer.load(models[0]), kept_likelihood(models[0])
    own = importance_bound(tokenizer, term, batches, 8)
    assert figures["nll_nats"] == pytest.approx(own.nll, abs=0.1)
    assert figures["elbo_nats"] == pytest.approx(-own.elbo, abs=0.1)
    assert figures["nll_bits_per_dim"] == pytest.approx(own.bits, abs=0.01)
    assert errors["nll_nats"] == pytest.approx(own.error, abs=0.1)
    assert figures["nll_nats"] < -figures["elbo_nats"]


def test_a_learnt_deviation_is_kept(models):
    term = kept_likelihood(models[0].parent)  # as of the run's folder
    assert isinstance(term, GaussianTerm)
    assert term.log_deviation.exp().item() != pytest.approx(0.5, abs=1e-3)
    assert not term.log_deviation.requires_grad


def test_it_is_compared_with_one_that_has_none(models, tmp_path):
    compare(Compare(artifacts=tuple(map(str, models)), out=tmp_path, **HOW))
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| nll_nats"))
    assert row.rstrip(" |").endswith("-") and "±" in row
    assert not (models[1] / FILE).exists()


def test_a_poor_likelihood_is_not_cut_off(models, tmp_path):
    """Means were of values that were clipped at 100, as PSNR's are."""
    spec = {"type": "GaussianLikelihood", "weight": 1.0,
            "deviation": {"type": "FixedDeviation", "value": 0.02}}  # fmt: skip
    kept = (models[0] / FILE).read_text()
    try:
        (models[0] / FILE).write_text(json.dumps(spec))
        found = evaluate(Evaluate(artifact=str(models[0]), out=tmp_path / "e.json", **HOW))
    finally:
        (models[0] / FILE).write_text(kept)
    figures = json.loads(found.read_text())["figures"]
    assert figures["nll_nats"] > 1000 and figures["elbo_nats"] < -1000


@pytest.mark.parametrize("pixel", [
    L2(), LogitLaplace(), GaussianLikelihood(), GaussianLikelihood(deviation=EmittedDeviation()),
], ids=["error", "logit-laplace", "normal", "emitted"])  # fmt: skip
@pytest.mark.parametrize("backbone", ["map", "dense"])
def test_what_is_saved_must_tell_it(pixel, backbone, monkeypatch):
    monkeypatch.setitem(family.PIXELS, "one", pixel)
    made = family.member(backbone, "gaussian", "none", "one")
    kept = likelihood_of(made.tokenizer, pixel, made.terms["pixel"])
    known = not isinstance(pixel, L2) and (pixel.maps == 1 or backbone == "dense")
    assert (kept is not None) == known
    monkeypatch.setitem(family.BOTTLENECKS, "moved", Gaussian(2))
    moved = family.member(backbone, "moved", "none", "one")
    assert likelihood_of(moved.tokenizer, pixel, moved.terms["pixel"]) is None


def test_a_broken_one_is_named(tmp_path):
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ValueError, match=rf"{FILE} is no likelihood: .*; train again"):
        kept_likelihood(tmp_path)
