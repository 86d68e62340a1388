"""Pictures that come in a row, sorted into buckets a roomful at a time.

A room gives as many batches as it has pictures for, shared among the buckets by how many pictures
these have: to whole batches, by chance where it does not come out even, so that each picture comes
once in as many draws as there are. Of a bucket with more pictures than its batches take some are
left out until the next epoch; where there are fewer, they come several times in one batch, and as
much more seldom in others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from calotype.data.aspect.buckets import Buckets, Shape
from calotype.data.reading.images import BrokenImage
from calotype.data.reading.looks import size_of
from calotype.data.reading.records import Reader, Record
from calotype.data.reading.remote import tried


@dataclass(frozen=True)
class Group:
    """The records of a batch, which are of one bucket."""

    shape: Shape
    records: list[Record]
    alike: Sequence[Record]
    """All of the room that are of this bucket."""

    def others(self, place: int) -> list[Record]:
        """What may take the place of one of them: those behind it in the room first."""
        own = self.records[place]
        at = next(i for i, record in enumerate(self.alike) if record is own)
        return [*self.alike[at + 1 :], *self.alike[:at]]


class Room:
    """A roomful of records, sorted.

    Args:
        found: Each with the bucket that it goes to; one or more.
        count: Batches that it gives.
        size: Samples of a batch.
        rng: Draws which; None: nothing is drawn, and they come in order.
    """

    def __init__(
        self, found: Sequence[tuple[Record, Shape]], count: int, size: int,
        rng: np.random.Generator | None,
    ) -> None:  # fmt: skip
        shapes = sorted({shape for _, shape in found})
        alike = {shape: [record for record, own in found if own == shape] for shape in shapes}
        if rng:
            alike = {shape: [own[i] for i in rng.permutation(len(own))]
                     for shape, own in alike.items()}  # fmt: skip
        parts = np.array([len(alike[shape]) for shape in shapes]) / len(found)
        whose = np.repeat(np.arange(len(shapes)), shares(parts, count, rng))
        if rng:
            rng.shuffle(whose)
        endless = {shape: cycle(records) for shape, records in alike.items()}
        self.records = [record for record, _ in found]
        self.batches = [
            Group(shapes[k], [*islice(endless[shapes[k]], size)], alike[shapes[k]]) for k in whose
        ]


def shares(parts: np.ndarray, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """How many of `count` each has whose parts sum to 1: its part of them, up or down to a whole
    one, by chance so that it is its part in the mean (systematic sampling).
    """
    ends = np.floor(count * parts.cumsum() + (rng.random() if rng else 0.5))
    ends[-1] = count  # a sum of parts is rounded
    return np.diff(np.minimum(ends, count), prepend=0).astype(int)


def measured(record: Record, crop: Buckets, reader: Reader) -> tuple[Record, Shape] | None:
    """A record, fetched if it is far, and the bucket that it goes to; None: it is broken, and
    skipped.

    Raises:
        BrokenImage: it is, and the policy is "stop".
        ValueError: it is longer than the buckets allow, and that is refused.
    """
    try:
        record = tried(record.fetched, record.name)
    except BrokenImage:
        pass
    # What is at a URL still, at that is nothing.
    width, height = (0, 0) if isinstance(record.file, str) else size_of(record)
    if not width:
        if (example := reader.read_one(record)) is None:
            return None
        width, height = example.get("size", example["image"].size)
    if crop.beyond == "refuse" and max(width, height) > crop.ratio * min(width, height):
        raise ValueError(
            f"{record.name} with {width}x{height} pixels is longer than {crop.ratio:g}:1: take it "
            "out, or give --transform.crop.beyond crop or a larger --transform.crop.ratio"
        )
    return record, crop.nearest(width, height)
