"""The same on vectors, in the manner of imbalanced-learn's. This module imports scikit-learn."""

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_X_y, validate_data

from calotype.uses.resampling import Interpolation, Repetition


class Resampler(BaseEstimator):
    """Makes classes as large as the largest: `fit_resample(X, y)` gives what was given and then
    what is new.

    Args:
        way: `Interpolation` or `Repetition`; None: `Interpolation()`.
        tokenizer: Of vectors that are flattened pictures of `shape`, in whose latents they are
            mixed; None: as they are.
        shape: Channels, height and width of pictures, whose values lie in [-1, 1]; None: vectors
            are no pictures.
        random_state: Of what is drawn.

    Attributes:
        counts_: How many of each class were made, by class.
    """

    def __init__(
        self, way: Any = None, tokenizer: Any = None, shape: Any = None, random_state: Any = None
    ) -> None:
        self.way, self.tokenizer, self.shape = way, tokenizer, shape
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def fit(self, X: Any, y: Any) -> "Resampler":
        """See how many of each class are wanted.

        Raises:
            ValueError: they are no vectors and classes, or a parameter is not possible.
        """
        _, y = validate_data(self, X, y)
        check_classification_targets(y)
        way = Interpolation() if self.way is None else self.way
        if not isinstance(way, Interpolation | Repetition):
            raise ValueError(f"way is {way}: give Interpolation() or Repetition()")
        if (self.tokenizer is None) != (self.shape is None):
            raise ValueError("tokenizer and shape go together: give both, or neither")
        self._way = way
        classes, counts = np.unique(y, return_counts=True)
        self.classes_ = classes
        self.counts_ = {each: int(counts.max() - n)
                        for each, n in zip(classes.tolist(), counts, strict=True)}  # fmt: skip
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [m, d] and classes [m], those that were given first.

        Raises:
            ValueError: as of `fit`.
        """
        self.fit(X, y)
        X, y = check_X_y(X, y)
        drawn = check_random_state(self.random_state).randint(2**31)
        chance = torch.Generator().manual_seed(int(drawn))
        vectors, labels = [X], [y]
        for each, count in self.counts_.items():
            if count:
                vectors.append(self._more(X[y == each], count, chance).astype(X.dtype))
                labels.append(np.full(count, each, y.dtype))
        return np.concatenate(vectors), np.concatenate(labels)

    def _more(self, few: np.ndarray, count: int, chance: torch.Generator) -> np.ndarray:
        own = torch.from_numpy(np.ascontiguousarray(few)).float()
        if self.tokenizer is None:
            return self._way.more(own, count, chance).numpy()
        from calotype.uses.augmenting import augmented

        pictures = own.view(-1, *self.shape)
        return augmented(self.tokenizer, pictures, count, self._way, chance).flatten(1).numpy()
