"""Shards of a cache that are being filled."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from calotype.data.cache.provenance import Listing, Provenance
from calotype.data.cache.shards import Shard, write_shard


class Piece:
    """A shard that is being filled.

    Args:
        part: Number of the part of the source.
        number: Of the piece of that.
        room: Rows that it may have at most.
        crops: Of each.
    """

    def __init__(self, part: int, number: int, room: int, crops: int) -> None:
        self.part, self.number, self.room, self.crops = part, number, room, crops
        self.listed: dict[int, tuple[Provenance, str]] = {}
        self._rows: dict[str, Tensor] = {}

    def leave_out(self, place: int, made: Provenance, reason: str) -> None:
        """Note a picture that cannot be read."""
        self.listed[place] = made, reason

    def put(
        self, places: Sequence[int], made: Sequence[Provenance], rows: dict[str, Tensor]
    ) -> None:
        """Put rows [n * crops, ...] at places within the piece."""
        for place, each in zip(places, made, strict=True):
            self.listed[place] = each, ""
        for name, values in rows.items():
            if name not in self._rows:
                shape = (self.room, self.crops, *values.shape[1:])
                self._rows[name] = torch.empty(shape, dtype=values.dtype)
            self._rows[name][list(places)] = values.view(len(places), self.crops, *values.shape[1:])

    def write(self, root: Path) -> Shard:
        """Write what it has, in the order of places."""
        every = [(place, *self.listed[place]) for place in sorted(self.listed)]
        good = [place for place, _, reason in every if not reason]
        listing = Listing(
            [made for _, made, reason in every if not reason],
            [made for _, made, reason in every if reason],
            [reason for _, _, reason in every if reason],
            [place for place, _, reason in every if reason],
        )
        whole = good == list(range(len(good)))
        rows = {
            name: (values[: len(good)] if whole else values[good]).flatten(0, 1)
            for name, values in self._rows.items()
        }
        return write_shard(root, self.part, self.number, rows, listing)
