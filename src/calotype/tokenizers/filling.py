"""One process's part of encoding a data source into a latent cache."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from calotype.data.aspect.bucketed import Bucketed, check_known
from calotype.data.aspect.buckets import Buckets
from calotype.data.aspect.sizes import sizes
from calotype.data.cache.pieces import Piece
from calotype.data.cache.placed import (
    Crops,
    PlacedPart,
    PlacedRecords,
    PlacedStream,
    all_known,
    provenance,
)
from calotype.data.cache.provenance import Provenance, digest_of
from calotype.data.cache.shards import Shard, is_made_of, made_of, written
from calotype.data.cache.stock import Stock
from calotype.data.cache.work import Work
from calotype.data.loading.in_order import in_order
from calotype.data.loading.loader import once
from calotype.data.pictures import Pictures
from calotype.data.reading.images import BrokenImage
from calotype.data.reading.records import Reader
from calotype.data.reading.transforms import FRAME
from calotype.data.streams import Stream, Whole
from calotype.tokenizers.encoder import Encoder, Scan

WORK = ".work"
"""Folder, within a cache that is being made, of who did what."""


@dataclass
class Task:
    """A piece to be made, and the pictures that have to be encoded for it."""

    piece: Piece
    places: Sequence[int]
    """Within the part of the source."""
    rows: Sequence[int] = ()
    """All pictures of the piece, where these have numbers."""


@dataclass
class Part:
    """A part of a source, and its pieces: what is to be made of them, or what is there."""

    number: int
    pieces: "list[Task | Shard]"


@dataclass
class Filling:
    """One process's part of filling a cache."""

    encoder: Encoder
    dataset: Dataset[Any]
    scan: Scan
    root: Path
    progress: Callable[[int], None]
    work: Work = field(init=False)
    there: dict[tuple[int, int], list[str]] = field(init=False)
    """Names of the `pictures` files of shards that were there before, by part and piece."""
    _stock: Stock | None = field(init=False, default=None)
    _before: tuple[int, int] = field(init=False, default=(0, 0))
    """Parts of a stream that are done without a gap, and pictures in them."""

    def __post_init__(self) -> None:
        check_known(self.dataset, self.scan.transform)
        self.dataset = in_order(self.dataset, self.scan.shard_size)
        self.root.mkdir(parents=True, exist_ok=True)
        self.work = Work(self.root / WORK / "shards")
        self.there = written(self.root)

    def fill(self) -> None:
        """Do what others do not, until all is done."""
        fill = self._stream if isinstance(self.dataset, IterableDataset) else self._map
        with self.work:
            fill(self._parts(wait=False))
            fill(self._parts(wait=True))  # of whoever died

    @property
    def stock(self) -> Stock:
        """The rows that are there; only looked into when pictures are others than those of a shard
        that was there.
        """
        if self._stock is None:
            self._stock = Stock(self.root, list(chain.from_iterable(self.there.values())))
        return self._stock

    @property
    def reader(self) -> Reader | None:
        """Who decodes the pictures; None: they are drawn."""
        return getattr(self.dataset, "reader", None)

    def _parts(self, wait: bool) -> Iterator[int]:
        """Numbers of the parts that this process takes, as it comes to them."""
        part = 0
        while not self._is_last(part):
            if self.work.take(part, wait):
                yield part
            part += 1

    def _is_last(self, part: int) -> bool:
        """Whether there are no parts from this one on, or there is enough in those before."""
        if not isinstance(self.dataset, Stream):
            return part * self.scan.shard_size >= self._total()
        return part >= self.dataset.parts or self._left(part) == 0

    def _left(self, part: int) -> int | None:
        """Pictures that are still wanted of a stream at a part, or more, for what others are at is
        not known; None: all.
        """
        if self.scan.count is None:
            return None
        while self._before[0] < part and (done := self.work.result(self._before[0])) is not None:
            listed = sum(Shard(*shard).listed for shard in done)
            self._before = self._before[0] + 1, self._before[1] + listed
        return max(0, self.scan.count - self._before[1])

    def _total(self) -> int:
        total = len(self.dataset)  # type: ignore[arg-type]
        return total if self.scan.count is None else min(total, self.scan.count)

    # Of a dataset whose pictures have numbers, also as they are read in order: a part is so many of
    # them as go into a shard, and a piece those of it that have one shape.

    def _map(self, parts: Iterator[int]) -> None:
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
            every = range(number * self.scan.shard_size, self._total())[: self.scan.shard_size]
            part = Part(number, [self._begun(number, k, rows)
                                 for k, rows in enumerate(self._alike(every)) if rows])  # fmt: skip
            self._done(part)
            for place, piece in enumerate(part.pieces):
                if isinstance(piece, Task):
                    tasks.append((part, place))
                    yield piece.places

    def _begun(self, part: int, number: int, rows: Sequence[int]) -> Task | Shard:
        if not self.there:
            return Task(self._piece(part, number, len(rows)), rows, rows)
        found = self._planned(part, number, rows, self._known_of(rows))
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
        found, size = Bucketed(self.dataset, crop, sizes(self.dataset)), self.scan.shard_size
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

    def _content(self, place: int) -> str:
        assert isinstance(self.dataset, Pictures)
        try:
            return provenance(self.dataset.records[place], self.dataset.reader.source).digest
        except (FileNotFoundError, BrokenImage):
            return ""  # which is told when it is to be decoded

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
            self._put(task.piece, [at[i] for i in numbers], known, batch)

    # Of a stream: a part is read in order, and its pieces are of the size of a shard.

    def _stream(self, parts: Iterator[int]) -> None:
        assert isinstance(self.dataset, Stream)
        for part in parts:
            limit = self._left(part)
            planned = self._scanned(self.dataset, part, limit)
            self.work.done(part, list(self._streamed(self.dataset, part, limit, planned)))

    def _scanned(self, stream: Stream, part: int, limit: int | None) -> "list[Task | Shard] | None":
        """What is to be done for each piece of a part, which is read for it; None: nothing is known
        of any, so that all is to be encoded.
        """
        if not self.there:
            return None
        found: list[Task | Shard] = []
        records = islice(stream.part(part), limit)
        source, size = stream.reader.source, self.scan.shard_size
        while known := all_known(islice(records, size), source, read=True):
            piece = len(found)
            rows = range(piece * size, piece * size + len(known))
            found.append(self._planned(part, piece, rows, known))
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
                    piece = pieces.open.setdefault(number, self._piece(part, number, size))
                    some_rows = {name: [values[i] for i in rows] if isinstance(values, list)
                                 else values[rows] for name, values in batch.items()}  # fmt: skip
                    places = [place - number * size for place in some_rows["place"]]
                    self._put(piece, places, some_rows["provenance"], some_rows)
        yield from pieces.before(None, self.root)

    # Of either.

    def _piece(self, part: int, number: int, room: int) -> Piece:
        return Piece(part, number, room, self.scan.crops)

    def _planned(
        self, part: int, number: int, rows: Sequence[int], known: Sequence[Provenance]
    ) -> Task | Shard:
        """What is to be done for a piece of these pictures: nothing, for it is there; or some of
        them are to be encoded, and the rows of others are there.
        """
        # One of which nothing is known was not there before, and is asked for again.
        there = (
            self.there.get((part, number), ()) if all(e.stamp or e.digest for e in known) else ()
        )
        for name in there:
            if (found := made_of(self.root, name)) and is_made_of(found[1], known):
                return found[0]
        piece, places = self._piece(part, number, len(known)), []
        for place, made in enumerate(known):
            if made.stamp and (found := self.stock.broken.get((made.name, made.stamp))):
                piece.leave_out(place, made._replace(digest=found[0].digest), found[1])
                continue
            digest = made.digest or self._digest(made, rows[place])
            if row := self.stock.row(digest) if digest else None:
                stored = self.stock.tensors(*row, self.scan.crops)
                captions = made.captions or (self.dataset[rows[place]]["caption"],)
                piece.put([place], [made._replace(digest=digest, captions=captions)], stored)
            else:
                places.append(rows[place])
        return Task(piece, places, rows)

    def _digest(self, made: Provenance, place: int) -> str:
        """Of what a picture's file holds, if there may be a row of that; else none."""
        if found := self.stock.digest(made.name, made.stamp):
            return found
        return self._content(place) if self.stock.knows(made.name) else ""

    def _put(
        self, piece: Piece, places: Sequence[int], known: Sequence[Provenance],
        batch: dict[str, Any],
    ) -> None:  # fmt: skip
        """Encode images to rows of a piece, and leave out what could not be read."""
        broken = batch.get("broken", [""] * len(places))
        for place, made, reason in zip(places, known, broken, strict=True):
            if reason:
                piece.leave_out(place, made, reason)
                if self.reader:
                    self.reader.skip(made.name, reason)
        good = [i for i, reason in enumerate(broken) if not reason]
        if not good:
            return
        found = {name: batch[name][good] for name in ("image", FRAME) if name in batch}
        if self.scan.crops > 1:
            found = {name: values.flatten(0, 1) for name, values in found.items()}
        rows = self.encoder.rows(found.pop("image"), self.scan.batch_size * self.scan.crops) | found
        piece.put([places[i] for i in good], [known[i] for i in good], rows)
        self.progress(len(good))


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


def _drawn(i: int) -> Provenance:
    """What a picture that is drawn by its number is made of."""
    return Provenance(str(i), "", digest_of(str(i).encode()), ())


def _all(place: int) -> bool:
    return True


def _by_piece(places: Sequence[int], size: int) -> Iterator[tuple[int, list[int]]]:
    """Which of some places in order are in each piece."""
    found: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        found.setdefault(place // size, []).append(i)
    yield from found.items()
