"""What of the rows of a cache is there already, and what is to be encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from calotype.data.cache.pieces import Piece
from calotype.data.cache.placed import provenance
from calotype.data.cache.provenance import Provenance
from calotype.data.cache.shards import Shard, is_made_of, made_of, written
from calotype.data.cache.stock import Stock
from calotype.data.pictures import Pictures
from calotype.data.reading.images import BrokenImage


@dataclass
class Task:
    """A piece to be made, and the pictures that have to be encoded for it."""

    piece: Piece
    places: Sequence[int]
    """Within the part of the source."""
    rows: Sequence[int] = ()
    """All pictures of the piece, where these have numbers."""


class Reuse:
    """What a folder has of pictures that are to be encoded into it.

    Args:
        dataset: The pictures.
        root: Folder of the cache.
        crops: Of each picture.
    """

    def __init__(self, dataset: Dataset[Any], root: Path, crops: int) -> None:
        self.dataset, self.root, self.crops = dataset, root, crops
        self.there = written(root)
        """Names of the `pictures` files of shards that were there before, by part and piece."""
        self._stock: Stock | None = None

    @property
    def stock(self) -> Stock:
        """The rows that are there; only looked into when pictures are others than those of a shard
        that was there.
        """
        if self._stock is None:
            self._stock = Stock(self.root, list(chain.from_iterable(self.there.values())))
        return self._stock

    def piece(self, part: int, number: int, room: int) -> Piece:
        """A piece of a part, empty."""
        return Piece(part, number, room, self.crops)

    def planned(
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
        piece, places = self.piece(part, number, len(known)), []
        for place, made in enumerate(known):
            if made.stamp and (found := self.stock.broken.get((made.name, made.stamp))):
                piece.leave_out(place, made._replace(digest=found[0].digest), found[1])
                continue
            digest = made.digest or self._digest(made, rows[place])
            if row := self.stock.row(digest) if digest else None:
                stored = self.stock.tensors(*row, self.crops)
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

    def _content(self, place: int) -> str:
        if not isinstance(self.dataset, Pictures):
            return ""  # a stream's are read for their digests; of this one there is nothing
        try:
            return provenance(self.dataset.records[place], self.dataset.reader.source).digest
        except (FileNotFoundError, BrokenImage):
            return ""  # which is told when it is to be decoded
