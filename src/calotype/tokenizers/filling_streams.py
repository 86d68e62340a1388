"""Filling a cache with a stream: a part of it is read in order, in windows of the size of a shard;
a piece is what of a window has one shape.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from calotype.data.aspect.buckets import Buckets, Shape
from calotype.data.cache.pieces import Piece
from calotype.data.cache.placed import Crops, PlacedPart, PlacedStream, here, provenance
from calotype.data.cache.provenance import Provenance
from calotype.data.cache.shards import Shard
from calotype.data.loading.passes import once
from calotype.data.reading.looks import size_of
from calotype.data.reading.records import Record
from calotype.data.streams import Stream
from calotype.tokenizers.filling import Filling
from calotype.tokenizers.reuse import Task


@dataclass
class StreamFilling(Filling):
    """Of a stream, from its start."""

    dataset: Stream  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        if self.buckets and self.scan.count is not None:
            raise ValueError(
                "--count: which pictures of a stream are its first is not kept where they are "
                "sorted into buckets: leave --count away, or crop to one size"
            )
        super().__post_init__()
        self._before = [0]  # pictures before each part, as far as all parts before it are done

    @property
    def buckets(self) -> Buckets | None:
        """What pictures are sorted into; None: they are cropped to one size."""
        crop = getattr(self.scan.transform, "crop", None)
        return crop if isinstance(crop, Buckets) else None

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of which a window has a piece each; none: there is one shape."""
        return self.buckets.shapes if self.buckets else ()

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

    def _scanned(
        self, stream: Stream, part: int, limit: int | None
    ) -> "list[Task | Shard | None] | None":
        """What is to be done for each piece of a part, which is read for it, and nothing for one
        without pictures; None: nothing is known of any, so that all is to be encoded.
        """
        if not self.reuse.there:
            return None
        found: list[Task | Shard | None] = []
        records, first = here(islice(stream.part(part), limit)), 0
        source, size = stream.reader.source, self.scan.shard_size
        while True:
            shapes: list[int] = []
            known = [provenance(record, source, read=not isinstance(record.file, str))
                     for record in self._noted(islice(records, size), shapes)]  # fmt: skip
            if not known:
                return found
            for shape in range(len(self.shapes) or 1):
                alike = [i for i, own in enumerate(shapes) if own == shape]
                rows = [first + i for i in alike]
                known_of = [known[i] for i in alike]
                found.append(self._planned(part, len(found), rows, known_of) if rows else None)
            first += size

    def _planned(
        self, part: int, number: int, rows: list[int], known: list[Provenance]
    ) -> Task | Shard:
        planned = self.reuse.planned(part, number, rows, known)
        if isinstance(planned, Task) and not planned.places:
            return planned.piece.write(self.root)  # or all of the part would be in memory
        return planned

    def _noted(self, records: Iterator[Record], shapes: list[int]) -> Iterator[Record]:
        """Records as they come, of each of which the number of its shape is noted."""
        for record in records:
            shapes.append(self._shape_of(record) if self.buckets else 0)
            yield record

    def _shape_of(self, record: Record) -> int:
        assert self.buckets
        # At a URL there is nothing, or it would be here.
        width, height = (0, 0) if isinstance(record.file, str) else size_of(record)
        side = self.encoder.size  # of the blank that stands for what is broken
        return self.shapes.index(self.buckets.nearest(width or side, height or side))

    def _streamed(
        self, stream: Stream, part: int, limit: int | None,
        planned: "list[Task | Shard | None] | None",
    ) -> Iterator[Shard]:  # fmt: skip
        size, each, pieces = self.scan.shard_size, len(self.shapes) or 1, Pieces(planned)
        if planned is None or any(isinstance(one, Task) for one in planned):
            wanted = PlacedPart(stream, part, self.encoder.size, pieces.wants(), limit)
            crops = Crops(self.scan.transform, self.scan.crops, self.scan.frames, sorts=True)
            some = PlacedStream(wanted, stream, size)
            # A part may be one that has nothing, or of which all was removed.
            scan = self.scan
            batches = once(some, scan.batch_size, crops, scan.workers, may_be_empty=True)
            for batch in batches:
                shape = self._shape(batch["image"].shape)
                for window, rows in _by_window(batch["place"], size):
                    yield from pieces.before(window * each, self.root)
                    number = window * each + shape
                    piece = pieces.at(number, lambda n=number: self.reuse.piece(part, n, size))
                    some_rows = {name: [values[i] for i in rows] if isinstance(values, list)
                                 else values[rows] for name, values in batch.items()}  # fmt: skip
                    places = pieces.rows(number, some_rows["place"])
                    self.put(piece, places, some_rows["provenance"], some_rows)
        yield from pieces.before(None, self.root)

    def _shape(self, sizes: Sequence[int]) -> int:
        """The number of the shape that images [..., H, W] have."""
        return self.shapes.index(Shape(sizes[-1], sizes[-2])) if self.shapes else 0


class Pieces:
    """The pieces of a part of a stream, whose windows are done one after another."""

    def __init__(self, planned: "list[Task | Shard | None] | None") -> None:
        self.planned = planned
        tasks = {n: each for n, each in enumerate(planned or ()) if isinstance(each, Task)}
        self.open = {number: each.piece for number, each in tasks.items()}
        self._rows = {
            n: {place: row for row, place in enumerate(each.rows)} for n, each in tasks.items()
        }
        self.number = 0

    def wants(self) -> Callable[[int], bool]:
        """Tells of a place whether its picture is to be encoded."""
        if self.planned is None:
            return _all
        tasks = [each for each in self.planned if isinstance(each, Task)]
        return frozenset(place for task in tasks for place in task.places).__contains__

    def at(self, number: int, begun: Callable[[], Piece]) -> Piece:
        """A piece that is not written yet."""
        if number not in self.open:
            self.open[number] = begun()
        return self.open[number]

    def rows(self, number: int, places: Sequence[int]) -> list[int]:
        """Rows of a piece for pictures at some places, which come in their order."""
        known = self._rows.setdefault(number, {})
        return [known.setdefault(place, len(known)) for place in places]

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


def _by_window(places: Sequence[int], size: int) -> Iterator[tuple[int, list[int]]]:
    """Which of some places in order are in each window."""
    found: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        found.setdefault(place // size, []).append(i)
    yield from found.items()
