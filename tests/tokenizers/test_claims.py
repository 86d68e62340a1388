"""What papers claim of the family, with the controls that such a claim needs: the quicker bars of
`benchmarks/family.py`, and that they can be missed.
"""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SLOW = [
    ("plain", "linear", 3000), ("plain", "deep", 2500), ("plain", "denoising", 2500),
    ("variational", "drawing", 2500), ("discrete", "causes", 300), ("discrete", "circle", 1000),
]  # fmt: skip
"""With steps enough for their bars, of those claims that take about a minute."""


@pytest.fixture
def claims(monkeypatch):
    """Their modules by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield lambda name: importlib.import_module(f"claims.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "claims"]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "claim", "steps"), SLOW)
def test_a_claim_holds(module, claim, steps, claims):
    figures = getattr(claims(module), claim)(steps)
    assert [figure.row() for figure in figures if not figure.holds] == []


def test_the_closed_divergence_is_what_draws_say(claims):
    assert all(figure.holds for figure in claims("variational").divergence(50_000))


def test_what_has_learnt_nothing_reaches_no_bar(claims):
    """Figures that an untrained network reached would show nothing."""
    plain, discrete, views = claims("plain"), claims("discrete"), claims("contrastive")
    figures = *plain.linear(1), *discrete.circle(1), *views.contrast(1)
    missed = {figure.name: figure.holds for figure in figures}
    assert not missed["contrast: how far a view moves latents, of how far pictures are apart"]
    assert not missed["linear: largest principal angle, degrees"]
    assert not missed["linear: error, of PCA's"]
    assert not missed["circle: circular correlation of its angle with the true one"]


def test_an_exact_bound_is_the_mean_of_drawn_ones(claims):
    """Of 10 bits: over all codes, and over many draws of them."""
    learning, discrete = claims("learning"), claims("discrete")
    from calotype.evaluation.likelihood import importance_bound
    from calotype.tokenizers.bottlenecks import RBM, Bernoulli

    held = learning.digits()[2][:4]
    made = learning.member(Bernoulli(10, RBM(4)), held, learning.NORMAL).eval()
    exact = discrete.exact_bound(made.tokenizer, held)
    drawn = importance_bound(made.tokenizer, learning.NORMAL.build(),
                             [{"image": held, "key": list(range(4))}], 2000)  # fmt: skip
    assert exact == pytest.approx(-drawn.elbo, rel=0.01)


def test_a_missed_bar_is_told(claims, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("family_bars", BENCHMARKS / "family.py")
    bars = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bars)
    figure = claims("learning").Figure
    monkeypatch.setitem(bars.CLAIMS, "divergence", lambda: [figure("x", 2.0, "< 1", False, "y")])
    assert bars.main(["divergence"]) == 1
    assert "| x | 2, **missed** | < 1 | y |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no claim nothing: choose from linear"):
        bars.main(["nothing"])
