"""Encoding a data source into a latent cache."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import Dataset, IterableDataset

from calotype.data.cache.index import INDEX, Files, Index
from calotype.data.cache.latents import OLD_TOKENS
from calotype.data.cache.shards import NAME, OLD_NAME, Shard, made_of, parts, write_shard, written
from calotype.data.cache.work import Work
from calotype.data.loading.in_order import in_order
from calotype.tokenizers.encoder import Encoder, Scan
from calotype.tokenizers.filling import WORK, Filling


@dataclass(frozen=True)
class Prompts:
    """What became of the captions."""

    files: Sequence[str]
    """Names of the `prompts` files of the shards."""
    length: int
    """Tokens of each."""
    text: dict[str, Any]
    """Describes whose tokens they are."""


def begin_work(root: Path) -> None:
    """Forget what was done by runs before, but not what they made; by one process."""
    Work.forget(root / WORK)


def cache_latents(
    encoder: Encoder, dataset: Dataset, scan: Scan, root: Path,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[Shard]:  # fmt: skip
    """Encode a dataset into `root`, shard by shard; returns the shards with rows, in order. What is
    there of pictures that are the same is kept, whichever shard they were in; nothing that was
    there is deleted.

    Processes that do so at once share the work: each takes a shard that no other has, or of a
    stream a part, and all return when all is done. `progress` is called with the rows of each
    batch.

    Raises:
        ValueError: the source had no images.
    """
    Filling(encoder, dataset, scan, root, progress).fill()
    streamed = isinstance(in_order(dataset, scan.shard_size), IterableDataset)
    count = scan.count if streamed else None
    if not (shards := list(_first(root, count))):
        raise ValueError("no images to encode: the data source is empty, or none can be read")
    return shards


def remaining(dataset: Dataset, scan: Scan, root: Path) -> int | None:
    """Images that are still to be encoded, if those of the shards that are there did not change;
    None: only the stream's end will tell.
    """
    dataset = in_order(dataset, scan.shard_size)
    if isinstance(dataset, IterableDataset):
        return scan.count
    total = len(dataset)  # type: ignore[arg-type]
    total = total if scan.count is None else min(total, scan.count)
    starts = {part * scan.shard_size for part, _ in written(root)}
    return total - sum(len(range(start, total)[: scan.shard_size]) for start in starts)


def finish(
    encoder: Encoder, root: Path, shards: Sequence[Shard], prompts: Prompts | None = None,
    **known: Any,
) -> Index:  # fmt: skip
    """Write the index, by one process: the cache is complete. What is no part of it, of what
    earlier runs made, is deleted.

    Args:
        encoder: What encoded it.
        root: Its folder.
        shards: As `cache_latents` returned them.
        prompts: What became of their captions; None: nothing.
        known: Other fields of the index.

    Raises:
        ValueError: a file of it has not the rows that it should have.
    """
    words = prompts.files if prompts else [""] * len(shards)
    files = tuple(Files(s.latents, s.pictures, w) for s, w in zip(shards, words, strict=True))
    crops, shapes = known.get("crops", 1), []
    for shard in shards:
        with safe_open(root / shard.latents, "pt") as stored:
            there, *shape = stored.get_slice("packed").get_shape()
        shapes.append(tuple(shape))
        if there != shard.rows * crops:
            raise ValueError(
                f"{root / shard.latents} has {there} rows and not {shard.rows * crops}: delete it "
                "and run cache-latents again"
            )
    index = Index(
        encoder.fingerprint, encoder.size, tuple(shard.rows for shard in shards), encoder.flipped,
        prompts and prompts.length, prompts and prompts.text, encoder.codes, files=files,
        shapes=tuple(shapes) if len(set(shapes)) > 1 else (), **known,
    )  # fmt: skip
    index.write(root)
    _sweep(root, {name for each in files for name in each})
    return index


def is_unchanged(root: Path, shards: Sequence[Shard], text: dict[str, Any] | None) -> bool:
    """Whether a finished cache is of these shards and this text."""
    if not (root / INDEX).exists():
        return False
    index = Index.read(root)
    names = [(each.latents, each.pictures) for each in index.files]
    return index.text == text and names == [(each.latents, each.pictures) for each in shards]


def _sweep(root: Path, kept: set[str]) -> None:
    for file in root.iterdir():
        ours = NAME.fullmatch(file.name) or OLD_NAME.fullmatch(file.name)
        cut_off = file.name.startswith(".") and file.name.endswith(".safetensors.partial")
        if (ours and file.name not in kept) or cut_off or file.name == OLD_TOKENS:
            file.unlink()
    Work.forget(root / WORK)


def _first(root: Path, count: int | None) -> Iterator[Shard]:
    """The shards with rows, in order, up to so many pictures; None: all."""
    with Work(root / WORK / "shards") as work:
        done = list(iter(map(work.result, itertools.count()).__next__, None))
    for shard in (Shard(*each) for each in chain.from_iterable(done)):
        if count == 0:
            return
        if count is not None and shard.listed > count:
            shard = _cut(root, shard, count)
        count = None if count is None else count - shard.listed
        if shard.rows:
            yield shard


def _cut(root: Path, shard: Shard, count: int) -> Shard:
    """A shard of the first pictures of one."""
    with Work(root / WORK / "cut") as work:
        if work.take(0, wait=True):
            found = made_of(root, shard.pictures)
            assert found
            listing, stored = found[1].first(count), load_file(root / shard.latents)
            crops = len(stored["packed"]) // shard.rows
            rows = {name: values[: len(listing.rows) * crops] for name, values in stored.items()}
            work.done(0, write_shard(root, *parts(shard.pictures), rows, listing))
        return Shard(*work.result(0))
