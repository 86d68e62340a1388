"""Shards of a cache as they are made: which rows are there, and how new ones are written."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from calotype.data.cache.index import LATENTS, PICTURES, PROMPTS, file_name
from calotype.data.cache.provenance import Listing, Provenance
from calotype.training.files import room, sync

NAME = re.compile(
    rf"(\d{{9}})\.(\d{{6}})-[0-9a-f]{{16}}\.({LATENTS}|{PICTURES}|{PROMPTS})\.safetensors"
)
OLD_NAME = re.compile(r"\d{5}\.(safetensors|captions\.json)")
"""Of the files of versions before."""
CUT_OFF = re.compile(r"\..*\.safetensors\.partial|\.tmp\w{6}")
"""Of what a kill leaves while a file is written: by us, and by safetensors beside that."""


class Shard(NamedTuple):
    """A shard that is there."""

    rows: int
    listed: int
    """Its rows, and the broken pictures among them."""
    latents: str
    pictures: str
    """Names of its files."""


def write_shard(
    root: Path, part: int, piece: int, rows: dict[str, Tensor], listing: Listing
) -> Shard:
    """Write a shard; of each file, one that is there already stays.

    Args:
        root: Folder of the cache.
        part: Number of the part of the source, and of the piece of that.
        piece: As said.
        rows: Its tensors; none: there are no rows.
        listing: What they were made of.
    """
    digests = "".join(each.digest for each in listing.rows)
    latents = file_name(part, piece, hashlib.sha256(digests.encode()).hexdigest(), LATENTS)
    if listing.rows:
        write_tensors(root / latents, rows)
    arrays = listing.arrays()
    pictures = file_name(part, piece, digest_of_arrays(arrays), PICTURES)
    write_tensors(root / pictures, arrays)
    listed = len(listing.rows) + len(listing.broken)
    return Shard(len(listing.rows), listed, latents, pictures)


def digest_of_arrays(arrays: dict[str, Tensor], *more: str) -> str:
    """Of what tensors hold, in their order."""
    found = hashlib.sha256("\0".join(more).encode())
    for name, value in arrays.items():
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that appears when every byte of it is on disk; one of this name is
    left as it is.

    Raises:
        OSError: the disk is full.
    """
    if file.exists():
        return
    beside = file.with_name(f".{file.name}.partial")
    need = sum(tensor.nbytes for tensor in tensors.values())
    with room(beside, file, need, "what is encoded is kept, and the same command goes on"):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside)
        sync(beside)
    beside.rename(file)


def parts(name: str) -> tuple[int, int]:
    """Numbers of the part of the source and of the piece of that, of a shard's file."""
    found = NAME.fullmatch(name)
    assert found, name
    return int(found[1]), int(found[2])


def written(root: Path) -> dict[tuple[int, int], list[str]]:
    """Names of the `pictures` files in a folder, by part and piece; of one whose cache changed
    there may be several.
    """
    found: dict[tuple[int, int], list[str]] = {}
    for file in sorted(root.glob(f"*.{PICTURES}.safetensors")):
        if NAME.fullmatch(file.name):
            found.setdefault(parts(file.name), []).append(file.name)
    return found


def made_of(root: Path, pictures: str) -> tuple[Shard, Listing] | None:
    """A shard by the name of its `pictures` file, and what it was made of; None: it is not whole,
    or not of this version.
    """
    listing = Listing.of(load_file(root / pictures))
    digests = hashlib.sha256("".join(each.digest for each in listing.rows).encode()).hexdigest()
    latents = file_name(*parts(pictures), digests, LATENTS)
    if listing.rows and not (root / latents).exists():
        return None
    rows = len(listing.rows)
    return Shard(rows, rows + len(listing.broken), latents, pictures), listing


def is_made_of(listing: Listing, wanted: Sequence[Provenance]) -> bool:
    """Whether a shard was made of these pictures: in this order, those that were broken aside. Of
    wanted ones digest and captions may be empty: then they are not compared.
    """
    broken = {(each.name, each.stamp) for each in listing.broken}
    good = [each for each in wanted if (each.name, each.stamp) not in broken]
    return (
        len(good) == len(listing.rows)
        and len(wanted) == len(good) + len(listing.broken)
        and all(_same(a, b) for a, b in zip(listing.rows, good, strict=True))
    )


def _same(stored: Provenance, wanted: Provenance) -> bool:
    return (
        stored.name == wanted.name
        and stored.stamp == wanted.stamp
        and wanted.digest in ("", stored.digest)
        and wanted.captions in ((), stored.captions)
    )
