"""A latent cache on disk: what a tokenizer packs, encoded once, read for days.

`latents.json` says what it holds and which tokenizer made it. A shard is three safetensors files:
`latents`, its rows (`packed`, and `packed_flipped` if flips were asked for); `pictures`, what each
row was made of (see `Provenance`); `prompts`, the tokens of its captions, and how many of them
count. `text_tokenizer/` made those. All are memory-mapped when a row of theirs is asked for: a
cache opens at once and takes no memory for each row. Rows are a posterior's moments in floating
point, or ids of codes in int16, or in int32 where there are too many codes for that.

Versions before numbered their shards, wrote captions as JSON and all prompts into one file, and
named no pictures; their caches are read as they are.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset, Subset

from calotype.data.cache.mapped import ask_for, mapped
from calotype.data.cache.shard_order import AT_ONCE, ShardOrder
from calotype.data.cache.shard_store import store
from calotype.data.cache.spans import Spans
from calotype.data.cache.texts import from_arrays
from calotype.data.identity import digest
from calotype.data.reading.transforms import FRAME, mirrored
from calotype.data.splits import Left, Some, Spread
from calotype.training.memory import stacked

LOOKED_AT = 16
"""Rows, from all over a cache, by whose contents it is told from others."""
OPEN = 8192
"""Files that a process holds mapped; to map one takes 0.1 ms and 20 KB."""
OLD_TOKENS = "tokens.safetensors"
"""Of all prompts, as versions before wrote them."""


class LatentCache(Dataset[dict[str, Any]]):
    """A finished cache: row i is {"packed": float32 or int32 [...]}, and where there are prompts
    {"tokens": int64 [L], "lengths": int64 []}, of which the first `lengths` count; a batch has
    "longest" too, the most of them; where frames are kept {"frame": int32 [5]}, as
    `Transform.framed` says. Of several crops or captions a picture a row has the first,
    and in a batch the one that its key chooses.

    Args:
        root: Its folder, or its URL, of any kind that fsspec reads.

    Raises:
        FileNotFoundError: there is no finished cache under `root`.
        ValueError: what is there is no cache.
    """

    def __init__(self, root: Path | str) -> None:
        self.store = store(root)
        self.index = self.store.index()
        self.ends = np.cumsum(self.index.rows, dtype=np.int64)
        self._open: dict[str, dict[str, Tensor]] = {}
        self._read: tuple[int, list[str]] = (-1, [])  # the captions that were read last, as JSON

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = self.batch([i], [0])
        return {name: values[0] for name, values in row.items() if isinstance(values, Tensor)}

    def batch(self, indices: list[int], keys: list[int]) -> dict[str, Any]:
        """Rows at `indices`, stacked; bits of the key choose among flips, crops and captions."""
        places = list(zip(*self._places(np.array(indices)), keys, strict=True))
        found = [self._packed(*place) for place in places]
        ask_for(found)
        wide = torch.float32 if found[0].is_floating_point() else torch.int32
        batch: dict[str, Any] = {"packed": stacked(found, wide)}
        if self.index.frames:
            batch[FRAME] = torch.stack([self._frame(*place) for place in places])
        if self.index.tokens:
            tokens, lengths = zip(*(self._prompt(*place) for place in places), strict=True)
            batch["tokens"] = torch.stack(tokens).long()
            batch["lengths"] = torch.stack(lengths).long()
            batch["longest"] = int(batch["lengths"].max())
        return batch

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths in sites that its rows have, the commonest shape first."""
        if not self.index.shapes:
            height, width = self[0]["packed"].shape[-2:]
            return ((height, width),)
        counts = Counter[tuple[int, int]]()
        for (*_, height, width), rows in zip(self.index.shapes, self.index.rows, strict=True):
            counts[height, width] += rows
        return tuple(shape for shape, _ in counts.most_common())

    @property
    def captions(self) -> "Captions":
        """The first caption of each row, in order; read when it is asked for."""
        return Captions(self)

    @property
    def text_tokenizer(self) -> Path:
        """Folder of what made the prompts' tokens."""
        return self.store.text_tokenizer()

    def captions_of(self, i: int) -> list[str]:
        """All captions of row i."""
        (number,), (row,) = self._places(np.array([i]))
        if not self.index.files:
            return [self._old_captions(number)[row]]
        arrays = self._tensors(self.index.files[number].pictures)
        return from_arrays(arrays, "captions", *_span(arrays["captions_each"], row))

    def identity(self) -> str:
        """What tells its rows from others: how many, their captions and pictures, how these were
        encoded, and the contents of some.
        """
        how = self.index
        known = [how.data or "", how.precision or "", str(how.flipped)]
        known.append(str(self._packed(0, 0, 0).dtype))
        looked_at = np.array(sorted({i * len(self) // LOOKED_AT for i in range(LOOKED_AT)}))
        places = zip(*self._places(looked_at), strict=True)
        known += [str(self._packed(number, row, 0).tolist()) for number, row in places]
        if how.files:  # their names tell what they were made of, and the source may have moved
            known[0] = str(how.crops)
            known += [name for files in how.files for name in (files.latents, files.prompts)]
        else:
            known += self.captions
        return f"{len(self)} rows, {digest(known)}"

    def split(self, held_out: int) -> "tuple[LatentRows, LatentRows]":
        """Rows to train on, and `held_out` others, evenly spread.

        Raises:
            ValueError: nothing is left to train on.
        """
        if not 0 <= held_out < len(self):
            raise ValueError(
                f"held_out is {held_out}: {self.store} has {len(self)} rows, of which some must be "
                "left to train on"
            )
        chosen = Spread(len(self), held_out)
        return LatentRows(self, Left(chosen)), LatentRows(self, chosen)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a memory map does not travel to a worker

    def _places(self, indices: Int64[np.ndarray, " n"]) -> tuple[list[int], list[int]]:
        """The shard of each row, and its place there."""
        numbers = np.searchsorted(self.ends, indices, side="right")
        firsts = np.concatenate([[0], self.ends])[numbers]
        return numbers.tolist(), (indices - firsts).tolist()

    def _packed(self, number: int, row: int, key: int) -> Tensor:
        # Noise drawn on the CPU is seeded by the low 32 bits of a key, so from bit 40 on it is free
        # of what is chosen here.
        name = "packed_flipped" if self._is_flipped(key) else "packed"
        return self._stored(name, number, row, key)

    def _frame(self, number: int, row: int, key: int) -> Tensor:
        found = self._stored(FRAME, number, row, key)
        return mirrored(found) if self._is_flipped(key) else found

    def _is_flipped(self, key: int) -> bool:
        return bool(self.index.flipped and key >> 40 & 1)

    def _stored(self, name: str, number: int, row: int, key: int) -> Tensor:
        crops, files = self.index.crops, self.index.files
        file = files[number].latents if files else f"{number:05d}.safetensors"
        return self._tensors(file)[name][row * crops + (key >> 41 & 0x7FF) % crops]

    def _prompt(self, number: int, row: int, key: int) -> tuple[Tensor, Tensor]:
        if not self.index.files:
            stored = self._old_prompts()
            place = row + (int(self.ends[number - 1]) if number else 0)
        else:
            stored = self._tensors(self.index.files[number].prompts)
            first, last = _span(stored["captions_each"], row)
            place = first + (key >> 52) % (last - first)
        return stored["tokens"][place], stored["lengths"][place]

    def _old_prompts(self) -> dict[str, Tensor]:
        stored = self._tensors(OLD_TOKENS)
        if "lengths" not in stored:
            raise ValueError(
                f"{self.store}/{OLD_TOKENS} does not say how long each prompt is: an early version "
                "wrote it; run cache-latents again into another folder"
            )
        return stored

    def _old_captions(self, number: int) -> list[str]:
        if self._read[0] != number:
            file = self.store.path(f"{number:05d}.captions.json")
            self._read = number, json.loads(file.read_text())
        return self._read[1]

    def _tensors(self, file: str) -> dict[str, Tensor]:
        """What a file holds, mapped."""
        if file not in self._open:
            if len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[file] = mapped(self.store.path(file))
        return self._open[file]


def _span(ends: Tensor, row: int) -> tuple[int, int]:
    """Where the captions of a row begin and end."""
    return int(ends[row - 1]) if row else 0, int(ends[row])


class Captions(Sequence[str]):
    """The first caption of each row of a cache."""

    def __init__(self, cache: LatentCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(self.cache)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        rows = range(len(self))[place]
        if isinstance(rows, range):
            return [self.cache.captions_of(row)[0] for row in rows]
        return self.cache.captions_of(rows)[0]


class LatentRows(Subset[dict[str, Any]]):
    """Some rows of a cache, which can be read by batches too."""

    def __init__(self, cache: LatentCache, rows: Some) -> None:
        super().__init__(cache, rows)
        self.cache, self.rows = cache, rows

    def batch(self, indices: list[int], keys: list[int]) -> dict[str, Any]:
        """As `LatentCache.batch`, of indices into these rows."""
        return self.cache.batch(self.rows.rows(np.array(indices)).tolist(), keys)

    def buckets(self) -> list[Spans] | None:
        """Places among these of the rows of each shape; None: all are of one."""
        if not (shapes := self.cache.index.shapes):
            return None
        number = {shape: k for k, shape in enumerate(dict.fromkeys(shapes))}
        whose = np.array([number[shape] for shape in shapes])
        before = self._before()
        # A step is of one shape and the next of another, so that all shapes share the files.
        at_once = max(1, AT_ONCE // len(number)) if self.cache.store.remote else None
        return [Spans(before[:-1][whose == k], np.diff(before)[whose == k], at_once)
                for k in number.values()]  # fmt: skip

    def order(self, seed: int) -> ShardOrder | None:
        """In which order to read them, where their shards have to be fetched; None: in any."""
        if not self.cache.store.remote:
            return None
        return ShardOrder(np.diff(self._before()), seed)

    def _before(self) -> Int64[np.ndarray, " shards"]:
        """How many of these lie before each shard, and before the end."""
        return self.rows.before(np.concatenate([[0], self.cache.ends]))
