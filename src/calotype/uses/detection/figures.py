"""How well anomalies are told and found, where it is known which pictures and where they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from calotype.lazy import scipy, sklearn

Scores = Float[np.ndarray, " n"]
Maps = Float[np.ndarray, "n H W"]
Masks = Bool[np.ndarray, "n H W"]

LIMIT = 0.3
"""False-positive rate up to which the overlap is averaged, as the benchmark has it."""


@dataclass(frozen=True)
class Figures:
    """Of one score; None: it cannot be known."""

    auroc: float | None
    """How often an anomalous picture is above a normal one; 0.5: chance."""
    precision: float | None
    """Average precision of pictures."""
    pixel_auroc: float | None
    """As `auroc`, of pixels of all pictures."""
    aupro: float | None
    """As `area_under_overlap`."""


def figures(
    scores: Scores, anomalous: Bool[np.ndarray, " n"], maps: Maps | None = None,
    masks: Masks | None = None,
) -> Figures:  # fmt: skip
    """Measure pictures' scores, and their maps where masks are known."""
    both = 0 < anomalous.sum() < len(anomalous)
    measures = sklearn.metrics
    told = (
        float(measures.roc_auc_score(anomalous, scores)) if both else None,
        float(measures.average_precision_score(anomalous, scores)) if both else None,
    )
    if maps is None or masks is None or not masks.any() or masks.all():
        return Figures(*told, None, None)
    pixels = float(measures.roc_auc_score(masks.ravel(), maps.ravel()))
    return Figures(*told, pixels, area_under_overlap(maps, masks))


def area_under_overlap(maps: Maps, masks: Masks, limit: float = LIMIT) -> float:
    """Mean part of a region that is found, over false-positive rates up to `limit`, in [0, 1]
    (AUPRO; Bergmann et al. 2021, section 4.3): each connected region counts alike, however large
    it is. The rate is of all pixels that are normal, of all pictures; by chance it is limit / 2.

    Raises:
        ValueError: there is no anomalous or no normal pixel.
    """
    if not masks.any() or masks.all():
        raise ValueError("masks: AUPRO takes anomalous and normal pixels, and there is one kind")
    order = np.argsort(-maps.ravel(), kind="stable")
    gained = _weights(masks).ravel()[order]
    wrong = ~masks.ravel()[order]
    values = maps.ravel()[order]
    last = np.append(values[1:] != values[:-1], True)  # pixels of one value are found together
    rates = np.append(0.0, (np.cumsum(wrong) / wrong.sum())[last])
    found = np.append(0.0, np.cumsum(gained)[last])
    inside = rates <= limit
    # `interp` takes of several points at the limit any: it is only asked for where none is there.
    if rates[inside][-1] < limit:
        found = np.append(found[inside], np.interp(limit, rates, found))
        rates = np.append(rates[inside], limit)
    else:
        rates, found = rates[inside], found[inside]
    return float((np.diff(rates) * (found[1:] + found[:-1]) / 2).sum() / limit)


def _weights(masks: Masks) -> Float[np.ndarray, "n H W"]:
    """What each anomalous pixel adds to the mean part of regions that is found."""
    images: Any = scipy.ndimage
    weights, regions = np.zeros(masks.shape), 0
    for mask, weight in zip(masks, weights, strict=True):
        labels, count = images.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1).astype(float)
        weight[mask] = 1 / sizes[labels[mask]]
        regions += count
    return weights / regions
