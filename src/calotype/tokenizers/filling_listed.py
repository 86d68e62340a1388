"""Filling a cache with pictures that have numbers, also as a stream's are read in order: a part is
so many of them as go into a shard, and a piece those of it that have one shape.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np

from calotype.data.aspect.bucketed import Bucketed
from calotype.data.aspect.buckets import Buckets
from calotype.data.aspect.sizes import sizes
from calotype.data.cache.placed import Crops, PlacedRecords, all_known
from calotype.data.cache.provenance import Provenance, digest_of
from calotype.data.cache.shards import Shard
from calotype.data.loading.passes import once
from calotype.data.pictures import Pictures
from calotype.tokenizers.filling import Filling
from calotype.tokenizers.reuse import Task


@dataclass
class Part:
    """A part of a source, and its pieces: what is to be made of them, or what is there."""

    number: int
    pieces: "list[Task | Shard]"


class ListedFilling(Filling):
    """Of a dataset whose pictures have numbers."""

    def is_last(self, part: int) -> bool:  # noqa: D102
        return part * self.scan.shard_size >= self.total

    def listed(self, part: int) -> int:  # noqa: D102
        return len(self._rows(part))

    @property
    def total(self) -> int:
        """Pictures to encode."""
        total = len(self.dataset)  # type: ignore[arg-type]
        return total if self.scan.count is None else min(total, self.scan.count)

    def _rows(self, part: int) -> range:
        return range(part * self.scan.shard_size, self.total)[: self.scan.shard_size]

    def do(self, parts: Iterator[int]) -> None:  # noqa: D102
        tasks: list[tuple[Part, int]] = []
        wanted = self._wanted(parts, tasks)
        first = next(wanted, None)
        if first is None:
            return
        dataset, transform = self.dataset, self.scan.transform
        if isinstance(dataset, Pictures):
            dataset = Pictures(
                PlacedRecords(dataset, self.encoder.size, self.bucketed), dataset.reader
            )
        if isinstance(dataset, Pictures) or self.scan.crops > 1:
            transform = Crops(transform, self.scan.crops, self.scan.frames)
        # One reader for all: its workers go on to the next shard while this one is written.
        batches = once(dataset, self.scan.batch_size, transform, self.scan.workers,
                       chain([first], wanted))  # fmt: skip
        for batch in batches:
            part, number = tasks.pop(0)
            task = part.pieces[number]
            assert isinstance(task, Task)
            count = -(-len(task.places) // self.scan.batch_size)
            self._encode(task, chain([batch], islice(batches, count - 1)))
            part.pieces[number] = task.piece.write(self.root)
            self._done(part)

    def _done(self, part: Part) -> None:
        """Say so of a part, if all of its pieces are there."""
        if all(isinstance(piece, Shard) for piece in part.pieces):
            self.work.done(part.number, part.pieces)

    def _wanted(
        self, parts: Iterator[int], tasks: list[tuple[Part, int]]
    ) -> Iterator[Sequence[int]]:
        """Places of the pictures to encode, by pieces, each of which becomes a task."""
        for number in parts:
            pieces = enumerate(self._alike(self._rows(number)))
            part = Part(number, [self._begun(number, k, rows) for k, rows in pieces if rows])
            self._done(part)
            for place, piece in enumerate(part.pieces):
                if isinstance(piece, Task):
                    tasks.append((part, place))
                    yield piece.places

    def _begun(self, part: int, number: int, rows: Sequence[int]) -> Task | Shard:
        if not self.reuse.there:
            return Task(self.reuse.piece(part, number, len(rows)), rows, rows)
        found = self.reuse.planned(part, number, rows, self._known_of(rows))
        if isinstance(found, Task) and not found.places:
            return found.piece.write(self.root)
        return found

    def _alike(self, rows: range) -> Iterator[Sequence[int]]:
        """Pictures of one shape, by the buckets' order; where there are none, all of them."""
        if self.bucketed is None:
            yield rows
            return
        buckets = self.bucketed.bucket[rows.start : rows.stop]
        for bucket in range(len(self.bucketed.crop.shapes)):
            yield (np.flatnonzero(buckets == bucket) + rows.start).tolist()

    @cached_property
    def bucketed(self) -> Bucketed | None:
        """The pictures in their buckets; None: they are cropped to one size. One whose header is
        broken, which is to be tried and told of, is in that of the first of its part.
        """
        crop = getattr(self.scan.transform, "crop", None)
        if not isinstance(crop, Buckets):
            return None
        # Each file is asked for its time, as it is for its row.
        known, size = sizes(self.dataset, stamped=None), self.scan.shard_size
        found = Bucketed(self.dataset, crop, known)
        for first in range(0, len(found), size):
            part = found.bucket[first : first + size]
            part[part < 0] = next(iter(part[part >= 0]), 0)
        return found

    def _known_of(self, rows: Sequence[int]) -> list[Provenance]:
        """What is known of pictures before they are encoded."""
        if not isinstance(self.dataset, Pictures):
            return [_drawn(i) for i in rows]
        records = (self.dataset.records[i] for i in rows)
        return all_known(records, self.dataset.reader.source)

    def _encode(self, task: Task, batches: Iterable[dict[str, Any]]) -> None:
        at = {row: place for place, row in enumerate(task.rows)}
        places = iter(task.places)
        for batch in batches:
            numbers = list(islice(places, len(batch["image"])))
            if "place" in batch:
                numbers, known = batch["place"], batch["provenance"]
            else:
                known = [
                    _drawn(i)._replace(captions=(caption,))
                    for i, caption in zip(numbers, batch["caption"], strict=True)
                ]
            self.put(task.piece, [at[i] for i in numbers], known, batch)


def _drawn(i: int) -> Provenance:
    """What a picture that is drawn by its number is made of."""
    return Provenance(str(i), "", digest_of(str(i).encode()), ())
