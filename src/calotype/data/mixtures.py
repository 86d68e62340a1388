"""Sources of sources: several in given shares, and one whose classes come equally often."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import isfinite

import numpy as np
from jaxtyping import Int64

from calotype.data.filters import Filtered, Listed
from calotype.data.folders.folder import Folder
from calotype.data.identity import digest
from calotype.data.loading.order import (
    Among,
    Order,
    Shares,
    Shuffled,
    order_of,
    part_seed,
    shares,
)
from calotype.data.mixed_streams import MixedStream
from calotype.data.nested import opened
from calotype.data.pictures import Pictures, captions_of_all
from calotype.data.reading.records import Reader, Record
from calotype.data.streams import Stream


@dataclass(frozen=True)
class Balanced:
    """A source whose classes, pictures of one caption each, are drawn equally often: each once in a
    round of all, and every picture of a class before any of it again.
    """

    source: Listed | Filtered = field(default_factory=lambda: Folder("images"))

    def build(self) -> "BalancedPictures":
        """Open the source and read its captions.

        Raises:
            ValueError: it is a stream, or all its captions are the same; or as of the source.
        """
        dataset = opened("source", self.source.build)
        if isinstance(dataset, Stream):
            raise ValueError(
                f"{dataset.reader.source}: which classes a stream has is not known before it is "
                "read; to balance them choose --data.source.no-streaming"
            )
        return BalancedPictures(dataset)


class BalancedPictures(Pictures):
    """Pictures of which each class, a caption, is drawn equally often.

    Args:
        dataset: All of them.

    Raises:
        ValueError: there is one class.
    """

    weighted = True
    """Whether some are drawn more often than others."""

    def __init__(self, dataset: Pictures) -> None:
        super().__init__(dataset.records, dataset.reader, self._says)
        numbers: dict[str, int] = {}
        captions = captions_of_all(dataset.records)
        whose = [numbers.setdefault(caption, len(numbers)) for caption in captions]
        if len(numbers) < 2:
            raise ValueError(
                f"{dataset.reader.source}: all its captions are {next(iter(numbers))!r}: there "
                "are no classes to balance; leave data:balanced away"
            )
        self.source, self.classes = dataset, tuple(numbers)
        self._sorted = np.argsort(whose, kind="stable")
        self._ends = np.cumsum(np.bincount(whose))

    @property
    def is_known(self) -> bool:
        """As of the source."""
        return self.source.is_known

    def members(self, k: int) -> Int64[np.ndarray, " members"]:
        """Indices of the k-th class's pictures."""
        return self._sorted[self._ends[k - 1] if k else 0 : self._ends[k]]

    def draws(self, seed: int) -> Order:
        """The order in which they are drawn; see `calotype.data.loading.order`."""

        def within(k: int) -> Order:
            members = self.members(k)
            return Among(Shuffled(len(members), part_seed(seed, k)), members)

        return Shares(within, [1] * len(self.classes), seed)

    def _says(self) -> str:
        return f"{len(self.classes)} classes equally of {self.source.identity()}"


@dataclass(frozen=True)
class Mixture:
    """Several sources. With weights each is drawn as often as they say, and its own epochs go
    round; read in order, they follow one another.

    Raises:
        ValueError: the weights are not one for each source, or not above 0.
    """

    first: Listed | Filtered | Balanced = field(default_factory=lambda: Folder("images"))
    second: Listed | Filtered | Balanced = field(default_factory=lambda: Folder("more"))
    third: Listed | Filtered | Balanced | None = None
    weights: tuple[float, ...] = ()
    """How often each is drawn beside the others, to a thousandth of all draws; none: every picture
    of all of them once an epoch."""

    def __post_init__(self) -> None:
        if not self.weights:
            if any(isinstance(source, Balanced) for source in self.sources.values()):
                raise ValueError(
                    "data.weights: without them every picture comes once an epoch, and none is "
                    "balanced; give a weight for each source"
                )
            return
        if len(self.weights) != len(self.sources):
            raise ValueError(
                f"data.weights are {len(self.weights)}, and there are {len(self.sources)} sources: "
                "give one for each"
            )
        if not all(isfinite(weight) and weight > 0 for weight in self.weights):
            raise ValueError(f"data.weights are {self.weights}: each must be above 0")

    @property
    def sources(self) -> dict[str, Listed | Filtered | Balanced]:
        """Those that there are, by their fields."""
        each = {"first": self.first, "second": self.second, "third": self.third}
        return {name: source for name, source in each.items() if source is not None}

    def build(self) -> "MixedPictures | MixedStream":
        """Open all of them; with a stream among them the mixture is one.

        Raises:
            ValueError: they differ in `on_error`, or there are no weights and how many pictures a
                stream has is not known; or as of a source.
        """
        built: dict[str, Pictures | Stream] = {
            name: opened(name, each.build) for name, each in self.sources.items()
        }
        if len(policies := {dataset.reader.on_error for dataset in built.values()}) > 1:
            raise ValueError(
                f"data: of {' and '.join(built)} some have on_error {' and some '.join(policies)}: "
                "choose one"
            )
        datasets = list(built.values())
        listed = [dataset for dataset in datasets if isinstance(dataset, Pictures)]
        if len(listed) == len(datasets):
            return MixedPictures(listed, self.weights)
        if not self.weights:
            _check_counted(built)
        return MixedStream(datasets, self.weights, joint(datasets))


class MixedPictures(Pictures):
    """Several datasets' pictures, one behind the other, drawn by weights.

    Args:
        datasets: One or more, of one policy for broken pictures.
        weights: One for each; none: as one dataset.
    """

    def __init__(self, datasets: Sequence[Pictures], weights: Sequence[float] = ()) -> None:
        records = Joined([dataset.records for dataset in datasets])
        super().__init__(records, joint(datasets), self._says)
        self.datasets, self.weights = tuple(datasets), tuple(weights)
        self.weighted = bool(weights)
        """Whether some are drawn more often than others."""

    @property
    def is_known(self) -> bool:
        """Whether all of them are."""
        return all(dataset.is_known for dataset in self.datasets)

    def draws(self, seed: int) -> Order:
        """The order in which they are drawn; see `calotype.data.loading.order`."""
        if not self.weights:
            return Shuffled(len(self), seed)
        lengths = [len(dataset) for dataset in self.datasets]
        starts = [0, *accumulate(lengths)]

        def of_one(k: int) -> Order:
            own = order_of(self.datasets[k], lengths[k], part_seed(seed, k))
            return Among(own, np.arange(starts[k], starts[k + 1]))

        return Shares(of_one, shares(self.weights), seed)

    def _says(self) -> str:
        parts = [dataset.identity() for dataset in self.datasets]
        drawn = ":".join(map(str, shares(self.weights))) if self.weights else "all alike"
        return f"{len(self)} pictures, mixed {drawn}, {digest(parts)}"


class Joined(Sequence[Record]):
    """Several sources' records, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Record]]) -> None:
        self.parts = parts
        self.ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        part = int(np.searchsorted(self.ends, index, "right"))
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]

    def captions(self) -> Iterator[str]:
        """The first caption of each, in order."""
        for part in self.parts:
            yield from captions_of_all(part)


def joint(datasets: Sequence[Pictures | Stream]) -> Reader:
    """A reader of all of them, which counts with them what is skipped."""
    first, *others = (dataset.reader for dataset in datasets)
    source = "; ".join(dataset.reader.source for dataset in datasets)
    reader = replace(first, source=f"mixture of {source}")
    for other in others:
        reader.share(other)
    return reader


def _check_counted(built: Mapping[str, Pictures | Stream]) -> None:
    for name, dataset in built.items():
        if isinstance(dataset, Stream) and not dataset.source.counted:
            raise ValueError(
                f"{dataset.reader.source}: how many pictures it has is known once it is read, so "
                f"that they cannot all come once an epoch: say by --data.weights how often each "
                f"source is drawn, or choose --data.{name}.no-streaming"
            )
