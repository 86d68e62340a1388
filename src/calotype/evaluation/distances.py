"""Distances between sets of images, by their features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

NEIGHBOURS = 3
"""Of precision and recall, as published."""
FEWEST = 2048
"""Pictures of which a Frechet distance stands for more than themselves: as many as Inception has
features (Heusel et al. 2017, who name it as the least)."""


def frechet(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance between Gaussians fitted to features (Heusel et al. 2017, eq. 6), by
    torch-fidelity, in float64.

    Raises:
        ValueError: there are fewer than two of either.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    if min(len(real), len(fake)) < 2:
        raise ValueError(f"Frechet distance of {len(real)} and {len(fake)} images: give 2 of each")
    moments = [fid_features_to_statistics(each.double().cpu()) for each in (real, fake)]
    return fid_statistics_to_metric(*moments, verbose=False)[KEY_METRIC_FID]


def too_few(images: int, features: int) -> str | None:
    """What to say of a Frechet distance of so many images, in a sentence; None: they are enough."""
    least = max(FEWEST, features)
    if images >= least:
        return None
    return (
        f"{images} pictures are too few: with fewer than {least} it comes out too large, the more "
        "so the fewer they are; compare it with that of as many pictures only"
    )


def precision_recall(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]
) -> tuple[float, float]:  # fmt: skip
    """Fraction of `fake` among the real, and of `real` among the fake (Kynkaanniemi et al. 2019,
    eq. 2), by torch-fidelity.

    Raises:
        ValueError: there are not more than 3 of either.
    """
    from torch_fidelity.metric_prc import (
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        prc_features_to_metric,
    )

    if min(len(real), len(fake)) <= NEIGHBOURS:
        raise ValueError(
            f"precision and recall of {len(fake)} and {len(real)} images: give more than "
            f"{NEIGHBOURS} of each"
        )
    found = prc_features_to_metric(
        fake.double().cpu(), real.double().cpu(), prc_neighborhood=NEIGHBOURS,
        prc_batch_size=4096, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


class Nearest:
    """Which of others, that come batch by batch, is nearest to each feature, and its Euclidean
    distance.

    Attributes:
        distances: To the nearest so far; infinite before the first batch.
        places: Its number among all that have come.
    """

    def __init__(self, of: Float[Tensor, "n d"]) -> None:
        # In float32 cdist takes squares apart, and a copy is not at distance 0.
        self.of, self.distances = of.double(), torch.full((len(of),), torch.inf)
        self.places, self.seen = torch.full((len(of),), -1), 0

    def add(self, others: Float[Tensor, "m d"]) -> None:
        """Look at these too."""
        found, place = torch.cdist(self.of, others.double()).min(1)
        nearer = found.float() < self.distances
        self.places = torch.where(nearer, self.seen + place, self.places)
        self.distances = torch.where(nearer, found.float(), self.distances)
        self.seen += len(others)


@dataclass(frozen=True)
class Memorisation:
    """Whether a generator repeats training images: distances of its images to the nearest one,
    beside those of real images that training did not show.
    """

    fake: Float[Tensor, " n"]
    real: Float[Tensor, " m"]

    @property
    def ratio(self) -> float:
        """Median distance of generated over that of unseen real images; far below 1: copies."""
        return (self.fake.median() / self.real.median().clamp_min(1e-12)).item()

    @property
    def copies(self) -> float:
        """Fraction of generated images nearer to a training image than 99 % of unseen real ones;
        about 0.01 of a generator that copies nothing and draws as well as reality.
        """
        return (self.fake < self.real.quantile(0.01)).float().mean().item()


def diversity(
    features: Float[Tensor, "n d"], groups: Sequence[str], pairs: int = 100_000
) -> float | None:
    """Mean Euclidean distance between features of images of one prompt, over that between images
    of different prompts, of which so many pairs are looked at; None: no prompt has two images, or
    there is one prompt.

    0: a prompt always gives one image; 1: as unlike as if the prompt said nothing.
    """
    places: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(group, []).append(i)
    within = torch.cat([torch.pdist(features[rows].double()) for rows in places.values()])
    number = {group: n for n, group in enumerate(places)}
    ids = torch.tensor([number[group] for group in groups])
    if not len(within) or len(places) == 1:
        return None
    first, second = _pairs(len(ids), pairs)
    apart = ids[first] != ids[second]
    between = (features[first[apart]] - features[second[apart]]).double().norm(dim=1)
    return (within.mean() / between.mean().clamp_min(1e-12)).item()


def _pairs(n: int, most: int) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
    """All pairs of n things, or of many a fixed sample."""
    if n * (n - 1) // 2 <= most:
        first, second = torch.triu_indices(n, n, 1)
        return first, second
    drawn = torch.randint(n, (2, most), generator=torch.Generator().manual_seed(0))
    return drawn[0], drawn[1]
