"""Encoding a data source into a latent cache."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from calotype.data.latents import Index, shard, write_shard
from calotype.data.loader import once
from calotype.tokenizers.tokenizer import ImageTokenizer

TextTokens = Callable[[Path, list[str]], int]
"""Writes the tokens of all captions into a cache's folder; returns a prompt's length."""


@dataclass(frozen=True)
class Encoder:
    """How images become rows of a cache."""

    tokenizer: ImageTokenizer
    fingerprint: str
    """Of the tokenizer's folder."""
    size: int
    """Pixels a side."""
    flipped: bool = False
    """Store each image's mirror image too. Wrong where captions say left and right."""
    dtype: torch.dtype = torch.float16

    @torch.no_grad()
    def rows(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Encode a batch of images."""
        images = batch["image"].to(self.tokenizer.last_layer.weight.device)
        rows = {"packed": self._pack(images)}
        if self.flipped:
            rows["packed_flipped"] = self._pack(images.flip(-1))
        return rows

    def _pack(self, images: Tensor) -> Tensor:
        packed = self.tokenizer.pack(images)
        return (packed.to(self.dtype) if packed.is_floating_point() else packed).cpu()


@dataclass(frozen=True)
class Reading:
    """How a source is read."""

    transform: Callable[..., dict[str, Any]] | None
    count: int | None = None
    """Images to encode; None: all."""
    batch_size: int = 64
    workers: int = 0
    shard_size: int = 8192
    """Rows in a shard."""


def cache_latents(
    encoder: Encoder, dataset: Dataset, reading: Reading, root: Path,
    rank: int = 0, world: int = 1, progress: Callable[[int], None] = lambda rows: None,
) -> None:  # fmt: skip
    """Encode a dataset into `root`, shard by shard; shards that are there already are kept.

    Ranks share the shards of a map-style dataset between them; the caller calls `claim` before,
    waits for all of them and then calls `finish`. `progress` is called with the rows of each batch.
    """
    for number, batches in _shards(dataset, reading, rank, world, root):
        if shard(root, number).exists():
            deque(batches, maxlen=0)  # a stream has to be read past it
            continue
        parts: list[dict[str, Tensor]] = []
        captions: list[str] = []
        for batch in batches:
            parts.append(encoder.rows(batch))
            captions += batch["caption"]
            progress(len(batch["image"]))
        if parts:
            rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            write_shard(shard(root, number), rows, captions)


def finish(encoder: Encoder, root: Path, text: TextTokens | None) -> Index:
    """Turn the captions into tokens and write the index: the cache is complete.

    Raises:
        ValueError: the source had no images.
    """
    files = sorted(root.glob("*.captions.json"))
    captions = [json.loads(file.read_text()) for file in files]
    if not any(captions):
        raise ValueError("no images to encode: the data source is empty")
    length = None if text is None else text(root, [c for shard in captions for c in shard])
    rows = tuple(len(each) for each in captions)
    index = Index(encoder.fingerprint, encoder.size, rows, encoder.flipped, length)
    index.write(root)
    return index


def claim(encoder: Encoder, root: Path) -> None:
    """Make the folder this tokenizer's.

    Raises:
        ValueError: another one's latents are in it.
    """
    root.mkdir(parents=True, exist_ok=True)
    mark = root / "tokenizer.txt"
    if not mark.exists():
        mark.write_text(encoder.fingerprint)
    elif (other := mark.read_text()) != encoder.fingerprint:
        raise ValueError(
            f"{root} was begun with tokenizer {other}, this one is {encoder.fingerprint}: "
            "choose another folder, or delete that one"
        )


def _shards(
    dataset: Dataset, reading: Reading, rank: int, world: int, root: Path
) -> Iterator[tuple[int, Iterable[dict[str, Any]]]]:
    options = (reading.batch_size, reading.transform, reading.workers)
    if isinstance(dataset, IterableDataset):
        if world > 1:
            raise ValueError("a streamed source is cached by one process: it has one order")
        yield from _streamed(once(dataset, *options), reading)
        return
    total = len(dataset)  # type: ignore[arg-type]
    total = total if reading.count is None else min(total, reading.count)
    for number, first in enumerate(range(0, total, reading.shard_size)):
        if number % world == rank and not shard(root, number).exists():
            rows = range(first, min(first + reading.shard_size, total))
            yield number, once(dataset, *options, rows)


def _streamed(
    batches: Iterator[dict[str, Any]], reading: Reading
) -> Iterator[tuple[int, Iterable[dict[str, Any]]]]:
    each = max(1, reading.shard_size // reading.batch_size)
    batches = batches if reading.count is None else _first(batches, reading.count)
    for number, first in enumerate(batches):
        # One batch is held at a time; the next shard begins where this one's reader stopped.
        yield number, chain([first], islice(batches, each - 1))


def _first(batches: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The first `count` samples, the last batch cut."""
    while count > 0 and (batch := next(batches, None)) is not None:
        yield {name: values[:count] for name, values in batch.items()}
        count -= len(batch["image"])
