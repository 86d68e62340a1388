"""Encoding a data source into a latent cache."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from calotype.data.latents import INDEX, Index, shard, write_shard
from calotype.data.loader import once
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training.images import sent_images


@dataclass(frozen=True)
class Prompts:
    """What is made of the captions when all are known."""

    write: Callable[[Path, list[str]], int]
    """Writes the tokens of all captions into a cache's folder; returns a prompt's length."""
    text: dict[str, Any]
    """Describes whose tokens they are."""


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
    """Of stored moments."""

    @property
    def codes(self) -> int | None:
        """How many the tokenizer's ids choose from; None: it packs moments."""
        bottleneck = self.tokenizer.bottleneck
        return bottleneck.codes if isinstance(bottleneck, Discrete) else None

    @property
    def stored(self) -> torch.dtype:
        """Of rows on disk: ids stay integers, whatever `dtype` is."""
        if self.codes is None:
            return self.dtype
        return torch.int16 if self.codes <= 2**15 else torch.int32

    @torch.no_grad()
    def rows(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Encode a batch of images.

        Raises:
            ValueError: what comes out is no numbers.
        """
        images = sent_images(batch["image"], self.tokenizer.last_layer.weight.device)
        rows = {"packed": self._pack(images)}
        if self.flipped:
            rows["packed_flipped"] = self._pack(images.flip(-1))
        for row in rows.values():
            if row.is_floating_point() and not row.isfinite().all():
                raise ValueError(
                    "latents are not finite: the tokenizer's weights are not, or they are too "
                    f"large for {str(self.stored).removeprefix('torch.')}; try --dtype float32"
                )
        return rows

    def _pack(self, images: Tensor) -> Tensor:
        return self.tokenizer.pack(images).to(self.stored).cpu()


@dataclass(frozen=True)
class Scan:
    """How a source is read."""

    transform: Callable[..., dict[str, Any]] | None
    count: int | None = None
    """Images to encode; None: all."""
    batch_size: int = 64
    workers: int = 0
    shard_size: int = 8192
    """Rows in a shard."""


def cache_latents(
    encoder: Encoder, dataset: Dataset, scan: Scan, root: Path,
    rank: int = 0, world: int = 1, progress: Callable[[int], None] = lambda rows: None,
) -> None:  # fmt: skip
    """Encode a dataset into `root`, shard by shard; shards that are there already are kept.

    Ranks share the shards of a map-style dataset between them; the caller waits for all of them
    and then calls `finish`. `progress` is called with the rows of each batch.
    """
    for number, batches in _shards(dataset, scan, rank, world, root):
        if shard(root, number).exists():
            deque(batches, maxlen=0)  # a stream has to be read past it
            continue
        parts: list[dict[str, Tensor]] = []
        captions: list[str] = []
        for batch in batches:
            parts.append(encoder.rows(batch))
            captions += batch["caption"]
            progress(len(batch["image"]))
        # Where none of a shard's pictures can be read it has no rows, and its place.
        names = parts[0] if parts else ()
        rows = {name: torch.cat([part[name] for part in parts]) for name in names}
        write_shard(shard(root, number), rows, captions)


def remaining(
    dataset: Dataset, scan: Scan, root: Path, rank: int = 0, world: int = 1
) -> int | None:
    """Images that a rank has still to encode; None: only the stream's end will tell."""
    if isinstance(dataset, IterableDataset):
        return scan.count
    return sum(len(rows) for _, rows in _missing(dataset, scan, rank, world, root))


def finish(
    encoder: Encoder, root: Path, prompts: Prompts | None, data: str | None = None,
    precision: str | None = None,
) -> Index:  # fmt: skip
    """Turn the captions into tokens and write the index: the cache is complete. `data` tells the
    pictures from others, `precision` is what they were encoded in.

    Raises:
        ValueError: the source had no images.
    """
    files = sorted(root.glob("*.captions.json"))
    captions = [json.loads(file.read_text()) for file in files]
    if not any(captions):
        raise ValueError("no images to encode: the data source is empty")
    (root / INDEX).unlink(missing_ok=True)  # an older one is of other tokens
    length = prompts and prompts.write(root, list(chain.from_iterable(captions)))
    rows = tuple(len(each) for each in captions)
    text = prompts and prompts.text
    index = Index(encoder.fingerprint, encoder.size, rows, encoder.flipped, length, text,
                  encoder.codes, data, precision)  # fmt: skip
    index.write(root)
    return index


def _shards(
    dataset: Dataset, scan: Scan, rank: int, world: int, root: Path
) -> Iterator[tuple[int, Iterable[dict[str, Any]]]]:
    options = (scan.batch_size, scan.transform, scan.workers)
    if isinstance(dataset, IterableDataset):
        if world > 1:
            raise ValueError("a streamed source is cached by one process: it has one order")
        yield from _streamed(once(dataset, *options), scan)
        return
    missing = list(_missing(dataset, scan, rank, world, root))
    if not missing:
        return
    # One reader for all: its workers go on to the next shard while this one is written.
    batches = once(dataset, *options, [rows for _, rows in missing])
    shards = groupby(batches, lambda batch: batch["row"][0] // scan.shard_size)
    found = next(shards, None)
    for number, _ in missing:
        if found is None or found[0] != number:
            yield number, ()
            continue
        yield number, found[1]
        found = next(shards, None)


def _missing(
    dataset: Dataset, scan: Scan, rank: int, world: int, root: Path
) -> Iterator[tuple[int, range]]:
    """A rank's shards of a map-style dataset that are not there, and their rows."""
    total = len(dataset)  # type: ignore[arg-type]
    total = total if scan.count is None else min(total, scan.count)
    for number, first in enumerate(range(0, total, scan.shard_size)):
        if number % world == rank and not shard(root, number).exists():
            yield number, range(first, min(first + scan.shard_size, total))


def _streamed(
    batches: Iterator[dict[str, Any]], scan: Scan
) -> Iterator[tuple[int, Iterable[dict[str, Any]]]]:
    each = max(1, scan.shard_size // scan.batch_size)
    batches = batches if scan.count is None else _first(batches, scan.count)
    for number, first in enumerate(batches):
        # One batch is held at a time; the next shard begins where this one's reader stopped.
        yield number, chain([first], islice(batches, each - 1))


def _first(batches: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The first `count` samples, the last batch cut."""
    while count > 0 and (batch := next(batches, None)) is not None:
        yield {name: values[:count] for name, values in batch.items()}
        count -= len(batch["image"])
