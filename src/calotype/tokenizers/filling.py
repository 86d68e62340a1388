"""One process's part of encoding a data source into a latent cache."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from calotype.data.cache.pieces import Piece
from calotype.data.cache.provenance import Provenance
from calotype.data.cache.shards import Shard
from calotype.data.cache.work import Work
from calotype.data.reading.records import Reader
from calotype.data.reading.transforms import FRAME
from calotype.tokenizers.encoder import Encoder, Scan
from calotype.tokenizers.reuse import Reuse

WORK = ".work"
"""Folder, within a cache that is being made, of who did what."""


@dataclass
class Filling(ABC):
    """One process's part of filling a cache. The work is in parts, of which each is done by one
    process and becomes one shard or several.
    """

    encoder: Encoder
    dataset: Dataset[Any]
    """As it is read once."""
    scan: Scan
    root: Path
    progress: Callable[[int], None]
    work: Work = field(init=False)
    reuse: Reuse = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.work = Work(self.root / WORK / "shards")
        self.reuse = Reuse(self.dataset, self.root, self.scan.crops)

    def fill(self) -> list[Shard]:
        """Do what others do not, until all is done; returns all shards, in order.

        Raises:
            ValueError: pictures of the source are in no shard.
        """
        with self.work:
            self.do(self._taken(wait=False))
            self.do(self._taken(wait=True))  # of whoever died
            return list(self._found())

    @abstractmethod
    def do(self, parts: Iterator[int]) -> None:
        """Do these parts, which this process has taken when it asks for them."""

    @abstractmethod
    def is_last(self, part: int) -> bool:
        """Whether there are no parts from this one on, or there is enough in those before."""

    @abstractmethod
    def listed(self, part: int) -> int | None:
        """Pictures of a part that is done, which its shards have; None: only reading has told."""

    @property
    def reader(self) -> Reader | None:
        """Who decodes the pictures; None: they are drawn."""
        return getattr(self.dataset, "reader", None)

    def _taken(self, wait: bool) -> Iterator[int]:
        """Numbers of the parts that this process takes, as it comes to them."""
        for part in self._numbers():
            if self.work.take(part, wait):
                yield part

    def _numbers(self) -> Iterator[int]:
        part = 0
        while not self.is_last(part):
            yield part
            part += 1

    def _found(self) -> Iterator[Shard]:
        """The shards of all parts, none of which is missing."""
        for part in self._numbers():
            shards = [Shard(*each) for each in self.work.result(part) or ()]
            there, wanted = sum(shard.listed for shard in shards), self.listed(part)
            if self.work.result(part) is None or wanted not in (None, there):
                raise ValueError(
                    f"{self.root}: of part {part} of the data {there} pictures are there and not "
                    f"{wanted or 'all'}: run the same command again"
                )
            yield from shards

    def put(
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
