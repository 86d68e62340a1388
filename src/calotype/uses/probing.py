"""What simple readers make of frozen representations: how much of the labels they tell.

A figure here means nothing alone: pixels, and the same network untrained, tell labels of many sets
better than what was trained. So whoever calls `probe` calls it for these too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from calotype.lazy import sklearn

Vectors = Float[np.ndarray, "_ _"]
Labels = Int64[np.ndarray, " _"]

WIDEST = 512
"""Numbers of a representation; of a wider one as many principal ones are read."""
STEPS = 1000
"""Of the logistic classifier's optimiser."""


@dataclass(frozen=True)
class Probe:
    """How representations are read."""

    few: tuple[int, ...] = (2, 5, 20)
    """Labels of each class that a classifier is given."""
    draws: int = 5
    """Choices of these, two or more; the mean and the sample's deviation over them are told."""
    retrieved: int = 10
    """Pictures that are retrieved by each."""
    decay: float = 1.0
    """Inverse of the logistic classifier's squared penalty, of standardised numbers."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("draws", 2), ("retrieved", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"--probe.{name} is {value}: it must be at least {least}")
        if any(each < 1 for each in self.few):
            raise ValueError(f"--probe.few is {self.few}: each must be at least 1")
        if not self.decay > 0:
            raise ValueError(f"--probe.decay is {self.decay}: it must be above 0")


@dataclass(frozen=True)
class Probed:
    """Parts of 1, of held-out pictures."""

    linear: float
    """Told right by a logistic classifier of all labels (Alain & Bengio 2017)."""
    nearest: float
    """Told right by the nearest picture, by the cosine of standardised numbers."""
    few: dict[int, tuple[float, float]]
    """Told right by a logistic classifier of so many labels a class, the mean and the sample's
    standard deviation over choices of these; none of numbers for which a class has too few."""
    precision: float
    """Of the pictures that are nearest, those of the same class."""


def probe(
    learnt: Vectors, labels: Labels, held: Vectors, right: Labels, how: Probe | None = None
) -> Probed:
    """Read vectors of pictures `held`, by those of pictures `learnt` whose labels are known.

    Raises:
        ValueError: there are fewer than two classes, or one that is asked for is not learnt.
    """
    how = how or Probe()
    known = np.unique(labels)
    if len(known) < 2:
        raise ValueError(f"labels: {len(known)} class is too few: two are needed to tell apart")
    if unknown := set(right.tolist()) - set(known.tolist()):
        raise ValueError(f"labels: class {min(unknown)} is held out and never learnt")
    learnt, held = _scaled(learnt, held, how.seed)
    near = _nearest(learnt, held, min(how.retrieved, len(learnt)))
    return Probed(
        _linear(learnt, labels, held, right, how),
        float((labels[near[:, 0]] == right).mean()),
        {each: _few(learnt, labels, held, right, each, how) for each in how.few
         if each <= min(np.bincount(np.searchsorted(known, labels)))},
        float((labels[near] == right[:, None]).mean()),
    )  # fmt: skip


def chance(labels: Labels, right: Labels) -> float:
    """Told right by whoever always says the commonest class."""
    values, counts = np.unique(labels, return_counts=True)
    return float((right == values[counts.argmax()]).mean())


def halves(labels: Labels, part: float, seed: int) -> tuple[Labels, Labels]:
    """Places to learn from and `part` that is held out, of each class alike.

    Raises:
        ValueError: a class has fewer than two pictures.
    """
    values, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(f"labels: class {values[counts.argmin()]} has one picture; two are needed")
    chance, learnt, held = np.random.default_rng(seed), list[int](), list[int]()
    for value in values:
        places = chance.permutation(np.flatnonzero(labels == value)).tolist()
        count = min(max(1, round(part * len(places))), len(places) - 1)
        held += places[:count]
        learnt += places[count:]
    return np.sort(np.array(learnt)), np.sort(np.array(held))


def _scaled(learnt: Vectors, held: Vectors, seed: int) -> tuple[Vectors, Vectors]:
    """Both, standardised as what is learnt says; principal numbers keep their own scales, or those
    that say least would be as loud as the others.
    """
    reader: Any = sklearn.preprocessing.StandardScaler()
    # Of vectors that are all alike there are no principal numbers.
    if learnt.shape[1] > WIDEST and np.ptp(learnt, axis=0).any():
        narrow = sklearn.decomposition.PCA(min(WIDEST, len(learnt)), random_state=seed)
        reader = sklearn.pipeline.make_pipeline(reader, narrow)
    found = reader.fit_transform(learnt)
    return found, reader.transform(held)


def _linear(
    learnt: Vectors, labels: Labels, held: Vectors, right: Labels, how: Probe
) -> float:  # fmt: skip
    reader = sklearn.linear_model.LogisticRegression(C=how.decay, max_iter=STEPS)
    return float(reader.fit(learnt, labels).score(held, right))


def _few(
    learnt: Vectors, labels: Labels, held: Vectors, right: Labels, each: int, how: Probe
) -> tuple[float, float]:
    found = []
    for draw in range(how.draws):
        chance = np.random.default_rng((how.seed, each, draw))
        some = np.concatenate([chance.permutation(np.flatnonzero(labels == value))[:each]
                               for value in np.unique(labels)])  # fmt: skip
        found.append(_linear(learnt[some], labels[some], held, right, how))
    return float(np.mean(found)), float(np.std(found, ddof=1))


def _nearest(learnt: Vectors, held: Vectors, count: int) -> Int64[np.ndarray, "_ k"]:
    """Places of the `count` that are nearest to each held-out one, the nearest first."""
    finder = sklearn.neighbors.NearestNeighbors(n_neighbors=count, metric="cosine")
    return finder.fit(learnt).kneighbors(held, return_distance=False)
