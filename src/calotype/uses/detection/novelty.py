"""The same on vectors, as an estimator of scikit-learn's. This module imports scikit-learn."""

from typing import Any
from warnings import warn

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from calotype.uses.detection.conformal import needed, p_values, threshold
from calotype.uses.detection.densities import Density, Gaussian


class NoveltyDetector(OutlierMixin, BaseEstimator):
    """What is unlike normal vectors [n, d], with a stated rate of false alarms.

    `fit` fits a density to a part of the vectors, all of which are normal, and finds the threshold
    by the others (`calotype.uses.detection.conformal`): of new normal vectors `predict` calls
    `false_alarm_rate` or fewer -1. Scores are as scikit-learn has them, the lower the more unusual.

    Args:
        density: What is usual: `Gaussian`, `Mixture`, `Principal` or `Nearest`; None: `Gaussian`.
        false_alarm_rate: Of normal vectors, between 0 and 1.
        held_out: Part of the vectors that the threshold is found by.
        random_state: Of which these are.

    Attributes:
        offset_: The score below which a vector is an outlier; -inf, which is said, where too few
            were held out for such a rate.
        held_scores_: Of those held out, the higher the more unusual.
    """

    def __init__(
        self, density: Any = None, false_alarm_rate: Any = 0.1, held_out: Any = 0.5,
        random_state: Any = None,
    ) -> None:  # fmt: skip
        self.density, self.false_alarm_rate = density, false_alarm_rate
        self.held_out, self.random_state = held_out, random_state

    def fit(self, X: Any, y: Any = None) -> "NoveltyDetector":
        """Learn from normal vectors; `y` is not read.

        Raises:
            ValueError: there are fewer than two, or a parameter is not possible.
        """
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        least = needed(self.false_alarm_rate)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: it must lie between 0 and 1")
        places = check_random_state(self.random_state).permutation(len(X))
        count = min(max(1, round(self.held_out * len(X))), len(X) - 1)
        density = Gaussian() if self.density is None else self.density
        if not isinstance(density, Density):
            raise ValueError(f"density is {density}: give one such as Gaussian() or Mixture()")
        self._unusual = density.fit(torch.from_numpy(X[places[count:]]))
        self.held_scores_ = self._scores(X[places[:count]])
        if count < least:
            warn(f"false_alarm_rate {self.false_alarm_rate:g} takes {least} vectors held out, and "
                 f"there are {count}: nothing will be an outlier", stacklevel=2)  # fmt: skip
            self.offset_ = -np.inf
        else:
            self.offset_ = -threshold(self.held_scores_, self.false_alarm_rate)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """How usual vectors are: the lower, the more unusual."""
        return -self._scores(self._checked(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """The same, below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers, else 1."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """As `calotype.uses.detection.conformal.p_values`."""
        return p_values(self.held_scores_, self._scores(self._checked(X)))

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _scores(self, X: np.ndarray) -> np.ndarray:
        return self._unusual(torch.from_numpy(np.ascontiguousarray(X))).double().numpy()
