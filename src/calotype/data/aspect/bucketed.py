"""A dataset whose pictures are sorted into buckets before any of them is decoded."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from torch.utils.data import Dataset, Subset

from calotype.data.aspect.buckets import Buckets, Shape
from calotype.data.aspect.sizes import Sizes
from calotype.data.loading.batches import keys_of
from calotype.data.loading.order import Places
from calotype.data.pictures import Chosen, Pictures
from calotype.data.reading.paths import cache_home
from calotype.data.reading.records import NoneReadError, Reader

AT_ONCE = 2**20
"""Pictures that are sorted at once, for memory is taken for each."""
SHAPE = "shape"
"""Of an example: the bucket that it is cropped to."""


class Bucketed(Dataset[dict[str, Any]]):
    """Pictures with the shape that each is cropped to. The place of a broken one is taken by the
    next of the same bucket; one whose header is broken is in none.

    Args:
        dataset: Map-style.
        crop: The buckets.
        found: Sizes of the pictures.

    Raises:
        ValueError: a picture is longer than the buckets allow, and that is refused, or none is
            left.
    """

    def __init__(self, dataset: Dataset[Any], crop: Buckets, found: Sizes) -> None:
        self.dataset, self.crop = dataset, crop
        self.reader = getattr(dataset, "reader", None)
        self.bucket = np.full(len(found), -1, np.int16)
        self._sort(found, np.flatnonzero(found[:, 0]))
        self.places = tuple(np.flatnonzero(self.bucket == k) for k in range(len(crop.shapes)))
        self.parts = [_part(dataset, places) for places in self.places]

    def __len__(self) -> int:
        return len(self.bucket)

    def __getitem__(self, index: int) -> dict[str, Any]:
        bucket = self.bucket[index]
        try:
            example = self.parts[bucket][int(np.searchsorted(self.places[bucket], index))]
            self._check(example, index)
        except NoneReadError:
            example = self.dataset[index]  # none of its bucket can be read: another, cropped to it
        return {**example, SHAPE: self.crop.shapes[bucket]}

    def _check(self, example: dict[str, Any], index: int) -> None:
        """Tell, once, that a picture has another shape than was kept of it."""
        if not isinstance(self.reader, Reader):
            return
        size = example.get("size", example["image"].size)
        if self.crop.nearest(*size) != self.shape(index):
            self.reader.tell(
                "it was replaced since its size was kept, and is cropped to another shape than its "
                f"own; to sort all anew, remove {cache_home() / 'sizes-*.safetensors'}",
                example.get("name") or self._named(index),
            )

    def read_one(self, index: int) -> dict[str, Any] | None:
        """A picture itself, whose place no other takes; None: it is broken, and skipped."""
        own = getattr(self.dataset, "read_one", None)
        example = self.dataset[index] if own is None else own(index)
        if example:
            self._check(example, index)
        return example and {**example, SHAPE: self.shape(index)}

    def shape(self, index: int) -> Shape:
        """What a picture is cropped to."""
        return self.crop.shapes[self.bucket[index]]

    def buckets(self) -> Sequence[Places]:
        """Indices of each bucket's pictures."""
        return self.places

    def _sort(self, found: Sizes, good: Places) -> None:
        if not len(good):
            raise ValueError(f"{self._source}: not one of {len(self)} pictures can be read")
        self.longer, self.lost = np.empty(len(good), bool), np.empty(len(good), np.float32)
        self.enlarged = 0
        for first in range(0, len(good), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            self._sort_some(found[good[some]], good[some], some)
        if self.longer.any() and self.crop.beyond == "refuse":
            first = int(good[self.longer.argmax()])
            width, height = found[first]
            raise ValueError(
                f"{self.longer.sum()} pictures are longer than {self.crop.ratio:g}:1, "
                f"{self._named(first)} with {width}x{height} pixels the first: take them out, or "
                "give --transform.crop.beyond crop or a larger --transform.crop.ratio"
            )

    def _sort_some(self, sizes: Sizes, places: Places, some: slice) -> None:
        self.bucket[places] = chosen = self.crop.chosen(sizes)
        bounds = np.array(self.crop.shapes)[chosen]
        scale = (sizes / bounds).min(1)
        self.enlarged += int((scale < 1).sum())
        self.longer[some] = sizes.max(1) > self.crop.ratio * sizes.min(1)
        self.lost[some] = 1 - (bounds * scale[:, None]).prod(1) / sizes.prod(1, dtype=np.int64)

    longer: Bool[np.ndarray, " _"]
    """Which of those that can be read are longer than `crop.ratio`."""
    lost: Float32[np.ndarray, " _"]
    """Part of the area of each of these that is cropped away."""
    enlarged: int
    """How many of these have fewer pixels than their bucket."""

    def said(self) -> str:
        """What was found, in words."""
        counts = {s: len(p) for s, p in zip(self.crop.shapes, self.places, strict=True)}
        words = ["buckets: " + ", ".join(f"{n} of {shape}" for shape, n in counts.items() if n)]
        words.append(f"{self.lost.mean():.1%} of a picture is cropped away, at most "
                     f"{self.lost[~self.longer].max(initial=0):.1%}")  # fmt: skip
        if self.longer.any():
            words.append(f"but of {self.longer.sum()} that are longer than {self.crop.ratio:g}:1 "
                         f"up to {self.lost.max():.1%}")  # fmt: skip
        if self.enlarged:
            words.append(f"{self.enlarged} have fewer pixels than their bucket and are enlarged")
        return "; ".join(words)

    @property
    def _source(self) -> str:
        return self.reader.source if self.reader else type(self.dataset).__name__

    def _named(self, index: int) -> str:
        if isinstance(self.dataset, Pictures):
            return self.dataset.records[index].name
        return f"{self._source} {index}"


def check_weights(dataset: Dataset[Any]) -> None:
    """Refuse to draw pictures by weights and by buckets at once.

    Raises:
        ValueError: some are to be drawn more often than others.
    """
    if getattr(dataset, "weighted", False):
        raise ValueError(
            "buckets: an optimiser step draws from one bucket, each as often as it has pictures, "
            "and data's weights or balance would not be heeded: crop to one size, or leave them "
            "away"
        )


def _part(dataset: Dataset[Any], places: Places) -> Dataset[Any]:
    if isinstance(dataset, Pictures) and len(places):
        return Pictures(Chosen(dataset.records, places), dataset.reader)
    return Subset(dataset, places)  # pyright: ignore[reportArgumentType] (it only indexes)


def in_buckets(
    buckets: Sequence[Any], rows: Sequence[int], batch_size: int
) -> Iterator[list[tuple[int, int]]]:
    """Batches of a pass over some rows, each of one bucket and the fullest first: of each sample
    the row and its key of seed 0.
    """
    wanted = np.asarray(rows)
    each = map(np.asarray, buckets)
    within = [places[np.isin(places, wanted, assume_unique=True)] for places in each]
    for places in sorted(within, key=len, reverse=True):
        for first in range(0, len(places), batch_size):
            some = places[first : first + batch_size].tolist()
            yield list(zip(some, keys_of(some), strict=True))
