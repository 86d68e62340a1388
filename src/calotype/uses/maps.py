"""Vectors of pictures on a plane."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from calotype.lazy import sklearn, umap

Vectors = Float[np.ndarray, "n d"]
Plane = Float[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Principal:
    """The two directions in which vectors differ most."""

    def plane(self, vectors: Vectors, seed: int = 0) -> Plane:
        """Where each vector lies; of vectors that are all alike, in one place."""
        if not np.ptp(vectors, axis=0).any():
            return np.zeros((len(vectors), 2), np.float32)
        found = sklearn.decomposition.PCA(2, random_state=seed).fit_transform(vectors)
        return np.asarray(found, np.float32)


@dataclass(frozen=True)
class Umap:
    """Neighbours beside each other (McInnes et al. 2018); what is far apart says little. Wants
    umap-learn.
    """

    neighbours: int = 15
    """Of each vector that are held beside it."""
    spread: float = 0.1
    """How close they may lie, of what is far."""

    def __post_init__(self) -> None:
        if self.neighbours < 2:
            raise ValueError(f"--map.neighbours is {self.neighbours}: it must be at least 2")
        if not 0 <= self.spread <= 1:
            raise ValueError(f"--map.spread is {self.spread}: it must lie between 0 and 1")

    def plane(self, vectors: Vectors, seed: int = 0) -> Plane:
        """Where each vector lies.

        Raises:
            ValueError: umap-learn is not installed.
        """
        self.check()
        with warnings.catch_warnings():
            # Of TensorFlow, which a part of it that is not used here wants.
            warnings.simplefilter("ignore", ImportWarning)
            maker = umap.UMAP(n_neighbors=min(self.neighbours, len(vectors) - 1),
                              random_state=seed, min_dist=self.spread, n_jobs=1)  # fmt: skip
        return np.asarray(maker.fit_transform(vectors), np.float32)

    def check(self) -> None:
        """Refuse where umap-learn is missing.

        Raises:
            ValueError: it is.
        """
        from importlib.util import find_spec

        if find_spec("umap") is None:
            raise ValueError(
                'a map by umap wants umap-learn: run pip install "calotype[uses]", or choose '
                "map:principal"
            )


Map = Principal | Umap


def trustworthiness(vectors: Vectors, plane: Plane, neighbours: int = 5) -> float:
    """How far those that a plane shows beside each other are neighbours (Venna & Kaski 2001), of 1:
    of at most as many as half of the vectors.
    """
    near = min(neighbours, max(1, (len(vectors) - 1) // 2))
    return float(sklearn.manifold.trustworthiness(vectors, plane, n_neighbors=near))


def nearest(vectors: Vectors, of: Int[np.ndarray, " k"], count: int) -> Int[np.ndarray, "k c"]:
    """Places of the vectors that are nearest to some of them, by cosine, nearest first, without
    themselves.
    """
    scaled = sklearn.preprocessing.StandardScaler().fit_transform(vectors)
    finder = sklearn.neighbors.NearestNeighbors(n_neighbors=count + 1, metric="cosine").fit(scaled)
    found = finder.kneighbors(scaled[of], return_distance=False)
    # Of pictures that are there twice either may be the first.
    return np.array([[n for n in row if n != own][:count]
                     for own, row in zip(of, found, strict=True)], np.int64)  # fmt: skip
