"""Encoding a data source into a latent cache."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import Dataset

from calotype.data.cache.index import INDEX, LEARNT_FROM, Files, Index
from calotype.data.cache.latents import OLD_TOKENS
from calotype.data.cache.shards import (
    CUT_OFF,
    NAME,
    OLD_NAME,
    Shard,
    made_of,
    parts,
    write_shard,
    written,
)
from calotype.data.cache.work import Together, each_once, once_by_any
from calotype.data.loading.in_order import in_order
from calotype.data.streams import Stream
from calotype.tokenizers.encoder import Encoder, Scan
from calotype.tokenizers.filling import WORK
from calotype.tokenizers.filling_listed import ListedFilling
from calotype.tokenizers.filling_streams import StreamFilling


@dataclass(frozen=True)
class Prompts:
    """What became of the captions."""

    files: Sequence[str]
    """Names of the `prompts` files of the shards."""
    length: int
    """Tokens of each."""
    text: dict[str, Any]
    """Describes whose tokens they are."""


def together(root: Path, what: Mapping[str, Any] | None = None) -> Together:
    """While it is entered, this process makes a cache in `root`, with whichever others do so at
    that time. All that follows here is done within it.

    Args:
        root: Folder of the cache.
        what: What it is made of, by name; who makes another one there is refused.
    """
    return Together(root / WORK, what or {})


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
    source = in_order(dataset, scan.shard_size)
    if isinstance(source, Stream):
        filling = StreamFilling(encoder, source, scan, root, progress)
    else:
        filling = ListedFilling(encoder, source, scan, root, progress)
    if not (shards := list(_first(root, filling.fill(), scan.count))):
        raise ValueError("no images to encode: the data source is empty, or none can be read")
    return shards


def remaining(dataset: Dataset, scan: Scan, root: Path) -> int | None:
    """Images that are still to be encoded, if those of the shards that are there did not change;
    None: only the stream's end will tell.
    """
    dataset = in_order(dataset, scan.shard_size)
    if isinstance(dataset, Stream):
        return scan.count
    total = len(dataset)  # type: ignore[arg-type]
    total = total if scan.count is None else min(total, scan.count)
    starts = {part * scan.shard_size for part, _ in written(root)}
    return total - sum(len(range(start, total)[: scan.shard_size]) for start in starts)


def finish(
    encoder: Encoder, root: Path, shards: Sequence[Shard], prompts: Prompts | None = None,
    **known: Any,
) -> Index:  # fmt: skip
    """Write the index: the cache is complete. What is no part of it, of what earlier runs made, is
    deleted. Processes share it as they do the work before: each looks at shards that no other has
    looked at, and one of them writes.

    Args:
        encoder: What encoded it.
        root: Its folder.
        shards: As `cache_latents` returned them.
        prompts: What became of their captions; None: nothing.
        known: Other fields of the index.

    Raises:
        ValueError: a file of it has not the rows that it should have; nothing is written.
    """
    words = prompts.files if prompts else [""] * len(shards)
    files = tuple(Files(s.latents, s.pictures, w) for s, w in zip(shards, words, strict=True))
    crops = known.get("crops", 1)
    shapes = each_once(
        root / WORK / "checked", len(shards), lambda n: _shape(root, shards[n], files[n], crops)
    )
    index = Index(
        encoder.fingerprint, encoder.size, tuple(shard.rows for shard in shards), encoder.flipped,
        prompts and prompts.length, prompts and prompts.text, codes=encoder.codes, files=files,
        shapes=tuple(map(tuple, shapes)) if len({*map(tuple, shapes)}) > 1 else (), **known,
    )  # fmt: skip
    once_by_any(root / WORK / "index", lambda: _write(root, index))
    return index


def _write(root: Path, index: Index) -> None:
    index.write(root)
    _sweep(root, {name for each in index.files for name in each})


def _shape(root: Path, shard: Shard, files: Files, crops: int) -> tuple[int, ...]:
    """Of a row of a shard, all of whose files have as many as they should.

    Raises:
        ValueError: one has not.
    """
    with safe_open(root / files.latents, "pt") as stored:
        sizes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}
    for shape in sizes.values():
        _check(root / files.latents, shape[0], shard.rows * crops)
    with safe_open(root / files.pictures, "pt") as stored:
        (listed,) = stored.get_slice("captions_each").get_shape()
        _check(root / files.pictures, listed, shard.listed)
    if files.prompts:
        with safe_open(root / files.prompts, "pt") as stored:
            ends = stored.get_tensor("captions_each")
            _check(root / files.prompts, len(ends), shard.rows)
            _check(root / files.prompts, stored.get_slice("tokens").get_shape()[0], int(ends[-1]))
    return tuple(sizes["packed"][1:])


def _check(file: Path, there: int, wanted: int) -> None:
    if there != wanted:
        raise ValueError(
            f"{file} has {there} rows and not {wanted}: delete it and run cache-latents again"
        )


def is_unchanged(
    root: Path, shards: Sequence[Shard], text: dict[str, Any] | None, learnt_from: int | None
) -> bool:
    """Whether a finished cache is of these shards and this text, learnt from so many captions."""
    if not (root / INDEX).exists():
        return False
    index = Index.read(root)
    known = [(each.latents, each.pictures) for each in index.files]
    names = [(each.latents, each.pictures) for each in shards]
    before = index.learnt_from or (learnt_from and LEARNT_FROM)
    return (index.text, before, known) == (text, learnt_from, names)


def _sweep(root: Path, kept: set[str]) -> None:
    for file in root.iterdir():
        ours = NAME.fullmatch(file.name) or OLD_NAME.fullmatch(file.name)
        cut_off = CUT_OFF.fullmatch(file.name)
        if (ours and file.name not in kept) or cut_off or file.name == OLD_TOKENS:
            file.unlink()


def _first(root: Path, shards: Sequence[Shard], count: int | None) -> Iterator[Shard]:
    """Those with rows, up to so many pictures; None: all."""
    for shard in shards:
        if count == 0:
            return
        if count is not None and shard.listed > count:
            if not shard.rows:  # none of it can be read, and it is the last
                return
            shard = _cut(root, shard, count)
        count = None if count is None else count - shard.listed
        if shard.rows:
            yield shard


def _cut(root: Path, shard: Shard, count: int) -> Shard:
    """A shard of the first pictures of one."""

    def cut() -> Shard:
        found = made_of(root, shard.pictures)
        assert found
        listing, stored = found[1].first(count), load_file(root / shard.latents)
        crops = len(stored["packed"]) // shard.rows
        rows = {name: values[: len(listing.rows) * crops] for name, values in stored.items()}
        return write_shard(root, *parts(shard.pictures), rows, listing)

    return Shard(*once_by_any(root / WORK / "cut", cut))
