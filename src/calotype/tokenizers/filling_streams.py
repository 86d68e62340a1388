"""Filling a cache with a stream: a part of it is read in order, and its pieces are of the size of a
shard.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from calotype.data.cache.placed import Crops, PlacedPart, PlacedStream, all_known
from calotype.data.cache.shards import Shard
from calotype.data.loading.passes import once
from calotype.data.streams import Stream, Whole
from calotype.tokenizers.filling import Filling
from calotype.tokenizers.reuse import Task


@dataclass
class StreamFilling(Filling):
    """Of a stream, from its start."""

    dataset: Stream  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._before = [0]  # pictures before each part, as far as all parts before it are done

    def is_last(self, part: int) -> bool:  # noqa: D102
        return part >= self.dataset.parts or self._left(part) == 0

    def listed(self, part: int) -> int | None:  # noqa: D102
        return self.dataset.source.counts[part] if self.scan.count is None else None

    def _left(self, part: int) -> int | None:
        """Pictures that are still wanted of a stream at a part, or more, for what others are at is
        not known; None: all.
        """
        if self.scan.count is None:
            return None
        while len(self._before) <= part:
            if (done := self.work.result(len(self._before) - 1)) is None:
                break
            listed = sum(Shard(*shard).listed for shard in done)
            self._before.append(self._before[-1] + listed)
        return max(0, self.scan.count - self._before[: part + 1][-1])

    def do(self, parts: Iterator[int]) -> None:  # noqa: D102
        for part in parts:
            limit = self._left(part)
            planned = self._scanned(self.dataset, part, limit)
            self.work.done(part, list(self._streamed(self.dataset, part, limit, planned)))

    def _scanned(self, stream: Stream, part: int, limit: int | None) -> "list[Task | Shard] | None":
        """What is to be done for each piece of a part, which is read for it; None: nothing is known
        of any, so that all is to be encoded.
        """
        if not self.reuse.there:
            return None
        found: list[Task | Shard] = []
        records = islice(stream.part(part), limit)
        source, size = stream.reader.source, self.scan.shard_size
        while known := all_known(islice(records, size), source, read=True):
            piece = len(found)
            rows = range(piece * size, piece * size + len(known))
            found.append(self.reuse.planned(part, piece, rows, known))
        return found

    def _streamed(
        self, stream: Stream, part: int, limit: int | None, planned: "list[Task | Shard] | None"
    ) -> Iterator[Shard]:
        size, pieces = self.scan.shard_size, Pieces(planned)
        if planned is None or any(isinstance(each, Task) and each.places for each in planned):
            wanted = PlacedPart(stream, part, self.encoder.size, pieces.wants(size), limit)
            some = PlacedStream(Whole(wanted), stream.reader, local=stream.local)
            crops = Crops(self.scan.transform, self.scan.crops, self.scan.frames)
            for batch in once(some, self.scan.batch_size, crops, self.scan.workers):
                for number, rows in _by_piece(batch["place"], size):
                    yield from pieces.before(number, self.root)
                    piece = pieces.open.setdefault(number, self.reuse.piece(part, number, size))
                    some_rows = {name: [values[i] for i in rows] if isinstance(values, list)
                                 else values[rows] for name, values in batch.items()}  # fmt: skip
                    places = [place - number * size for place in some_rows["place"]]
                    self.put(piece, places, some_rows["provenance"], some_rows)
        yield from pieces.before(None, self.root)


class Pieces:
    """The pieces of a part of a stream, which are done one after another."""

    def __init__(self, planned: "list[Task | Shard] | None") -> None:
        self.planned = planned
        tasks = enumerate(planned or ())
        self.open = {number: each.piece for number, each in tasks if isinstance(each, Task)}
        self.number = 0

    def wants(self, size: int) -> Callable[[int], bool]:
        """Tells of a place whether its picture is to be encoded."""
        if self.planned is None:
            return _all
        tasks = [each for each in self.planned if isinstance(each, Task)]
        return frozenset(place for task in tasks for place in task.places).__contains__

    def before(self, number: int | None, root: Path) -> Iterator[Shard]:
        """Write the pieces before one; None: all."""
        last = max([*self.open, len(self.planned or ()) - 1], default=-1) + 1
        while self.number < (last if number is None else number):
            there = self.planned and self.planned[self.number]
            if isinstance(there, Shard):
                yield there
            elif piece := self.open.pop(self.number, None):
                yield piece.write(root)
            self.number += 1


def _all(place: int) -> bool:
    return True


def _by_piece(places: Sequence[int], size: int) -> Iterator[tuple[int, list[int]]]:
    """Which of some places in order are in each piece."""
    found: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        found.setdefault(place // size, []).append(i)
    yield from found.items()
