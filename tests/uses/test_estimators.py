"""What scikit-learn asks of an estimator, and that one here learns."""

import subprocess
import sys
import textwrap

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from calotype.tokenizers import Gaussian
from calotype.uses.estimators import LatentTransformer

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
