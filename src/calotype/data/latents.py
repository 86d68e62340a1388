"""A latent cache on disk: what a tokenizer packs, encoded once, read for days.

`latents.json` says what it holds and which tokenizer made it; each shard is one safetensors file
of rows (`packed`, and `packed_flipped` if flips were asked for) with a `.captions.json` beside it;
`tokens.safetensors` holds the prompts' tokens of all rows and how many of them count, and
`text_tokenizer/` what made them. All are memory-mapped; a row costs one read. Rows are a
posterior's moments in floating point, or ids of codes in int16, or in int32 where there are too
many codes for that.
"""

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int32
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, Subset

from calotype.data.identity import digest
from calotype.data.plan import Places
from calotype.data.prompts import Prompted
from calotype.training.files import room, sync, write_text


@dataclass(frozen=True)
class Index:
    """What a cache is."""

    tokenizer: str
    """Fingerprint of the tokenizer that encoded it."""
    size: int
    """Pixels a side of the images that were encoded."""
    rows: tuple[int, ...]
    """Samples in each shard."""
    flipped: bool
    """Whether each sample's mirror image is stored too."""
    tokens: int | None
    """Length of the prompts' tokens; None: no captions."""
    text: dict[str, Any] | None = None
    """The text spec that made them, as recipe.json describes it."""
    codes: int | None = None
    """Rows are ids from 0 to codes - 1, [h, w] or, of several codes a site, [codebooks, h, w];
    None: they are moments."""
    data: str | None = None
    """What tells the pictures that were encoded from others; None: it is not known."""
    precision: str | None = None
    """What they were encoded in; None: it is not known."""

    @classmethod
    def read(cls, root: Path) -> "Index":
        """Read a cache's index.

        Raises:
            FileNotFoundError: there is no finished cache under `root`.
            ValueError: what is there is no cache.
        """
        file = root / INDEX
        if not file.exists():
            raise FileNotFoundError(
                f"no finished cache in {root}: run `calotype cache-latents` to make it"
            )
        try:
            values = json.loads(file.read_text())
            return cls(**{**values, "rows": tuple(values["rows"])})
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{file} is not a cache's: give a folder that `calotype cache-latents` made"
            ) from None

    def write(self, root: Path) -> None:
        """Finish a cache."""
        write_text(root / INDEX, json.dumps(asdict(self), indent=1) + "\n")


def shard(root: Path, number: int) -> Path:
    """File of a shard."""
    return root / f"{number:05d}.safetensors"


LOOKED_AT = 16
"""Rows, from all over a cache, by whose contents it is told from others."""
INDEX, TOKENS, TEXT_TOKENIZER = "latents.json", "tokens.safetensors", "text_tokenizer"


def is_finished(root: Path) -> bool:
    """Whether a cache is whole; its index is what is written last."""
    return (root / INDEX).exists()


def write_tokens(
    root: Path, tokens: Int32[Tensor, "rows length"], lengths: Int32[Tensor, " rows"]
) -> int:
    """Write the prompts' tokens, of which the first `lengths` count; returns how many a row has."""
    _write(root / TOKENS, {"tokens": tokens, "lengths": lengths})
    return tokens.shape[1]


def write_shard(file: Path, tensors: dict[str, Tensor], captions: list[str]) -> None:
    """Write a shard; its safetensors file appears last and whole."""
    write_text(file.with_suffix(".captions.json"), json.dumps(captions))
    _write(file, tensors)


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that appears when every byte of it is on disk.

    Raises:
        OSError: the disk is full.
    """
    beside = file.with_name(f".{file.name}.partial")
    need = sum(tensor.nbytes for tensor in tensors.values())
    with room(beside, file, need, "what is encoded is kept, and the same command goes on"):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside)
        sync(beside)
    beside.rename(file)


class LatentCache(Dataset[dict[str, Any]]):
    """A finished cache: row i is {"packed": float32 or int32 [...]}, and where there are prompts
    {"tokens": int64 [L], "lengths": int64 []}, of which the first `lengths` count; a batch has
    "longest" too, the most of them.

    Raises:
        FileNotFoundError: there is no finished cache under `root`.
        ValueError: what is there is no cache.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.index = root, Index.read(root)
        self.ends = list(accumulate(self.index.rows))
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = self.batch([i], [0])
        return {name: values[0] for name, values in row.items() if isinstance(values, Tensor)}

    def batch(self, indices: list[int], keys: list[int]) -> dict[str, Any]:
        """Rows at `indices`, stacked; where flips are stored, a bit of the key chooses one."""
        places = [self._place(i) for i in indices]
        names = [self._packed(key) for key in keys]
        packed = [self._row(n, name, j) for (n, j), name in zip(places, names, strict=True)]
        rows = torch.stack(packed)
        batch: dict[str, Any] = {"packed": rows.float() if rows.is_floating_point() else rows.int()}
        if self.index.tokens:
            batch["tokens"] = self.prompts.tokens[indices].long()
            batch["lengths"] = self.prompts.lengths[indices].long()
            batch["longest"] = int(batch["lengths"].max())
        return batch

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Height and width in sites of its rows, each once."""
        height, width = self[0]["packed"].shape[-2:]
        return ((height, width),)

    @cached_property
    def prompts(self) -> Prompted:
        """The prompts' tokens of all rows, int32.

        Raises:
            ValueError: an older version wrote them.
        """
        stored = load_file(self.root / TOKENS)
        if "lengths" not in stored:
            raise ValueError(
                f"{self.root / TOKENS} does not say how long each prompt is: delete "
                f"{self.root / INDEX} and run cache-latents again, which encodes no image anew"
            )
        return Prompted(stored["tokens"], stored["lengths"])

    @cached_property
    def captions(self) -> list[str]:
        """All captions, in order."""
        files = [shard(self.root, n).with_suffix(".captions.json") for n in range(len(self.ends))]
        return [caption for file in files for caption in json.loads(file.read_text())]

    def identity(self) -> str:
        """What tells its rows from others: how many, their captions and pictures, how these were
        encoded, and the contents of some.
        """
        stored, how = self._row(0, "packed", 0).dtype, self.index
        known = [how.data or "", how.precision or "", str(how.flipped), str(stored)]
        looked_at = sorted({i * len(self) // LOOKED_AT for i in range(LOOKED_AT)})
        places = [self._place(i) for i in looked_at]
        known += [str(self._row(n, "packed", row).tolist()) for n, row in places]
        return f"{len(self)} rows, {digest([*known, *self.captions])}"

    def split(self, held_out: int) -> "tuple[LatentRows, LatentRows]":
        """Rows to train on, and `held_out` others, evenly spread.

        Raises:
            ValueError: nothing is left to train on.
        """
        if not 0 <= held_out < len(self):
            raise ValueError(
                f"held_out is {held_out}: {self.root} has {len(self)} rows, of which some must be "
                "left to train on"
            )
        chosen = [i * len(self) // held_out for i in range(held_out)]
        left = sorted(set(range(len(self))) - set(chosen))
        return LatentRows(self, left), LatentRows(self, chosen)

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("prompts", "captions")}
        return {**state, "_open": {}}  # a memory map does not travel to a worker

    def _packed(self, key: int) -> str:
        # Bit 40: noise drawn on the CPU is seeded by the low 32 bits, so a flip is free of it.
        return "packed_flipped" if self.index.flipped and key >> 40 & 1 else "packed"

    def _place(self, i: int) -> tuple[int, int]:
        number = bisect_right(self.ends, i)
        return number, i - (self.ends[number - 1] if number else 0)

    def _row(self, number: int, name: str, row: int) -> Tensor:
        if number not in self._open:
            self._open[number] = safe_open(shard(self.root, number), "pt")
        return self._open[number].get_slice(name)[row : row + 1][0]


class LatentRows(Subset[dict[str, Any]]):
    """Some rows of a cache, which can be read by batches too."""

    def __init__(self, cache: LatentCache, rows: list[int]) -> None:
        super().__init__(cache, rows)
        self.cache = cache

    def batch(self, indices: list[int], keys: list[int]) -> dict[str, Any]:
        """As `LatentCache.batch`, of indices into these rows."""
        return self.cache.batch([self.indices[i] for i in indices], keys)

    def buckets(self) -> list[Places] | None:
        """Which of these rows may be in one batch; None: all of them."""
        return None
