"""What every source of pictures shares: undecoded records, decoded when they are asked for."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from calotype.data.identity import Identity
from calotype.data.reading.images import Decoding
from calotype.data.reading.records import Example, Reader, Record
from calotype.data.splits import Spread


class Pictures(Dataset[Example]):
    """A map-style dataset of captioned pictures.

    Under the policy "skip", the place of a broken picture is taken by the next one in the
    dataset's order that can be read, so that what an index gives never depends on what was read
    before.

    Args:
        records: All of them.
        reader: How they are decoded.
        identity: What tells them from others; None: how many they are.

    Raises:
        ValueError: there are no records.
    """

    def __init__(
        self, records: Sequence[Record], reader: Reader, identity: Identity | None = None
    ) -> None:
        if not len(records):
            raise reader.nothing()
        self.records, self.reader, self._identity = records, reader, identity

    @property
    def is_known(self) -> bool:
        """Whether something tells its pictures from others but how many they are."""
        return self._identity is not None

    def identity(self) -> str:
        """What tells its pictures from others."""
        return self._identity() if self._identity else f"{len(self)} pictures"

    def decoded_by(self, decoding: Decoding) -> "Pictures":
        """The same pictures, decoded otherwise."""
        found = copy.copy(self)
        found.reader = self.reader.decoding_as(decoding)
        return found

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"picture {index} of {n}")
        return self.reader.read(self.records[(index + k) % n] for k in range(n))

    def read_one(self, index: int) -> Example | None:
        """What an index of `records` has, and nothing in its place; None: it is broken.

        Raises:
            BrokenImage: it is, and the policy is "stop".
        """
        return self.reader.read_one(self.records[index])


@dataclass(frozen=True)
class Chosen(Sequence[Record]):
    """Some of a source's records."""

    records: Sequence[Record]
    places: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.records[int(self.places[index])]

    def captions(self) -> Iterable[str]:
        """The first caption of each, in order."""
        if not hasattr(self.records, "captions"):
            return (self[i].caption for i in range(len(self)))
        wanted = {int(place) for place in self.places}
        every = enumerate(captions_of_all(self.records))
        said = {place: caption for place, caption in every if place in wanted}
        return (said[int(place)] for place in self.places)


def spread(dataset: Dataset[Any], count: int | None) -> Dataset[Any]:
    """So many pictures from all over a dataset, which may be sorted by what is in them; None, or as
    many as there are: all. Of what is no `Pictures`, a stream or drawn scenes, it is all too.
    """
    if not isinstance(dataset, Pictures) or count is None or count >= len(dataset):
        return dataset
    places = Spread(len(dataset), count)
    known = dataset.identity if dataset.is_known else None
    return Pictures(Chosen(dataset.records, places), dataset.reader, known)


def captions_of_all(records: Sequence[Record]) -> Iterable[str]:
    """The first caption of each record in order, without its picture if the records can say them
    so, by a method `captions()`.
    """
    own: Callable[[], Iterable[str]] | None = getattr(records, "captions", None)
    return own() if own else (records[i].caption for i in range(len(records)))


def so_many(count: int) -> str:
    """`1 picture`, `2 pictures`."""
    return "1 picture" if count == 1 else f"{count} pictures"
