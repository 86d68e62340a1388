"""What scikit-learn asks of an estimator, and that one here learns."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from calotype.tokenizers import Backbone, Gaussian, ImageTokenizer
from calotype.uses.estimators import LatentTransformer, PretrainedLatents

ROWS = load_digits(return_X_y=True)[0]
LEARNT, HELD = ROWS[:1400], ROWS[1400:]


def test_scikit_learns_own_checks_pass():
    """In a process whose types nobody checks: what they hand over on purpose is of the wrong."""
    script = textwrap.dedent("""
        import warnings
        from sklearn.utils.estimator_checks import check_estimator
        from calotype.uses.estimators import LatentTransformer
        warnings.simplefilter("ignore")
        found = check_estimator(LatentTransformer(steps=3), on_fail=None)
        assert not [each for each in found if each["status"] == "failed"], found
        assert sum(each["status"] == "passed" for each in found) > 40
    """)
    subprocess.run([sys.executable, "-c", script], check=True)


def test_it_learns_what_rebuilds_rows():
    made = LatentTransformer(steps=400, random_state=0).fit(LEARNT)
    begun = LatentTransformer(steps=1, random_state=0).fit(LEARNT)
    assert made.score(HELD) > 0.4 > 0.1 > begun.score(HELD)
    assert made.score(np.broadcast_to(made.mean_, HELD.shape)) <= 1
    rebuilt = made.inverse_transform(made.transform(HELD))
    assert rebuilt.shape == HELD.shape
    # As whoever calls sees it: PCA leaves the same rows and the same count of numbers.
    assert made.transform(HELD).shape == PCA(8).fit(LEARNT).transform(HELD).shape
    assert list(made.get_feature_names_out())[:2] == ["latenttransformer0", "latenttransformer1"]


def test_the_same_state_is_the_same_network():
    one = LatentTransformer(Gaussian(3, kl_weight=1e-3), steps=20, random_state=7)
    again, other = clone(one), clone(one).set_params(random_state=8)
    found = [each.fit(LEARNT).transform(HELD) for each in (one, again, other)]
    assert np.array_equal(found[0], found[1]) and not np.allclose(found[0], found[2])
    assert found[0].shape[1] == 3


def test_constant_columns_and_any_width_are_rebuilt():
    """Of d numbers a square is made: what is added must not be seen."""
    for width in (1, 2, 3, 4, 5, 9, 10):
        rows = np.random.default_rng(0).normal(size=(30, width))
        rows[:, 0] = 4.0
        made = LatentTransformer(steps=2, random_state=0).fit(rows)
        assert made.inverse_transform(made.transform(rows)).shape == rows.shape
        assert np.isfinite(made.score(rows))


PICTURES, LABELS = load_digits().images / 16, load_digits().target


def pretrained(channels: int = 1) -> ImageTokenizer:
    spec = Gaussian(4)
    network = Backbone((8, 8), 1, attention=False, groups=4).autoencoder(spec, 8, channels=channels)
    return ImageTokenizer(network, spec.build()).eval()


def test_a_trained_tokenizer_stands_in_a_pipeline_by_itself_or_by_its_folder(tmp_path):
    tokenizer = pretrained()
    tokenizer.save(tmp_path / "digits")
    scores = []
    for given in (tokenizer, tmp_path / "digits", str(tmp_path / "digits")):
        made = clone(make_pipeline(PretrainedLatents(given), LogisticRegression(max_iter=500)))
        made.fit(PICTURES[:600], LABELS[:600])
        scores.append(made.score(PICTURES[600:900], LABELS[600:900]))
    assert scores[0] == scores[1] == scores[2] > 0.6
    assert len(made[0].get_feature_names_out()) == 4 * 4 * 4


def test_what_it_is_fitted_to_changes_nothing_and_latents_are_the_tokenizers():
    tokenizer = pretrained()
    before = {name: weight.clone() for name, weight in tokenizer.state_dict().items()}
    one, other = (PretrainedLatents(tokenizer, batch_size=n) for n in (64, 7))
    found = one.fit(PICTURES[:10]).transform(PICTURES[:50])
    np.testing.assert_allclose(other.fit(PICTURES[90:]).transform(PICTURES[:50]), found, atol=1e-5)
    images = torch.from_numpy(PICTURES[:50, None]).float() * 2 - 1
    wanted = tokenizer.latents(images).flatten(1).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    levels = (PICTURES[:50, ..., None] * 255).round().astype(np.uint8)
    np.testing.assert_allclose(one.transform(levels), wanted, atol=0.05)
    assert all(torch.equal(weight, before[name]) for name, weight in tokenizer.state_dict().items())
    assert cross_val_score(one, PICTURES[:30], scoring=lambda *_: 1.0, cv=2).tolist() == [1, 1]


@pytest.mark.parametrize("pictures, answer", [
    (ROWS[:5], "shape"), (PICTURES[:0], "shape"), (PICTURES[:5] * 16, "scale them"),
    (PICTURES[:5].astype(int), "scale them"), (PICTURES[:5] * np.nan, "scale them"),
    (PICTURES[:5, ..., None].repeat(3, -1), "3 channels, and the tokenizer takes 1"),
])  # fmt: skip
def test_what_are_no_pictures_is_refused(pictures, answer):
    with pytest.raises(ValueError, match=answer):
        PretrainedLatents(pretrained()).fit(pictures)
    with pytest.raises(ValueError, match=answer):
        PretrainedLatents(pretrained()).fit(PICTURES).transform(pictures)


def test_scikit_learns_checks_of_what_takes_pictures_pass():
    """Those that need no rows of numbers."""
    script = textwrap.dedent("""
        import sys, warnings
        sys.path.insert(0, sys.argv[1])
        from sklearn.utils.estimator_checks import check_estimator
        from test_estimators import PretrainedLatents, pretrained
        warnings.simplefilter("ignore")
        found = check_estimator(PretrainedLatents(pretrained()), on_fail=None)
        assert not [each for each in found if each["status"] == "failed"], found
        assert any(each["status"] == "passed" for each in found)
    """)
    subprocess.run([sys.executable, "-c", script, str(Path(__file__).parent)], check=True)
