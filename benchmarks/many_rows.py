"""How long a latent cache takes to open and how much memory, from a million rows to 100 million.

    python benchmarks/many_rows.py

A million rows are really made, of one number each, with captions and tokens. Those of 100 million
are an index, and shards of 8192 rows of [8, 32, 32] that are holes of as many bytes: a file system
reads zeros from them, and everything but the disk does the work of the real ones. So are as many of
seven shapes, as pictures in buckets have. Each figure is taken in a process of its own: seconds,
and the growth of its memory that is not the files' own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from calotype.data import LatentCache, Loader
from calotype.data.cache.index import LATENTS, PICTURES, PROMPTS, Files, Index, file_name
from calotype.data.cache.provenance import Listing, Provenance
from calotype.data.cache.shards import write_shard, write_tensors

SHARD, BATCH = 8192, 256
MADE, LISTED = 1_000_000, 100_000_000
SQUARE = ((8, 32, 32),)
SHAPES = tuple((8, height, 1024 // height) for height in (16, 20, 24, 32, 42, 51, 64))
LENGTH = 32
"""Tokens of a prompt."""


def make(root: Path, rows: int) -> None:
    """Write a cache of rows of one number."""
    counts, files = [], []
    for part, first in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - first)
        made = [
            Provenance(f"{i:09d}.jpg", "1 1", f"{i:032x}", (f"picture {i} of very many",))
            for i in range(first, first + count)
        ]
        packed = torch.arange(first, first + count).float().view(-1, 1, 1, 1)
        shard = write_shard(root, part, 0, {"packed": packed}, Listing(made))
        prompts = file_name(part, 0, f"{part:016x}", PROMPTS)
        tokens = torch.zeros(count, LENGTH, dtype=torch.int32)
        ends = torch.arange(1, count + 1)
        write_tensors(
            root / prompts, {"tokens": tokens, "lengths": tokens[:, 0] + 7, "captions_each": ends}
        )
        counts.append(count)
        files.append(Files(shard.latents, shard.pictures, prompts))
    Index("f00d", 8, tuple(counts), False, LENGTH, files=tuple(files)).write(root)


def hole(file: Path, tensors: dict[str, tuple[str, tuple[int, ...], int]]) -> None:
    """Write a safetensors file whose tensors (type, shape, bytes) are a hole."""
    header, end = {}, 0
    for name, (kind, shape, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + end)


def pretend(root: Path, rows: int, several: tuple[tuple[int, ...], ...] = SQUARE) -> None:
    """Write a cache whose shards are holes, of these shapes in turn."""
    counts, files, shapes = [], [], []
    for part, first in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - first)
        shapes.append(shape := several[part % len(several)])
        names = [file_name(part, 0, f"{part:016x}", kind) for kind in (LATENTS, PICTURES, PROMPTS)]
        size = 2 * count * int(np.prod(shape))
        hole(root / names[0], {"packed": ("F16", (count, *shape), size)})
        # One file of captions serves all: each is called by a link.
        ends = torch.arange(1, count + 1)
        plain = root / f"prompts-{count}.safetensors"
        tokens = torch.ones(count, LENGTH, dtype=torch.int32)
        write_tensors(plain, {"tokens": tokens, "lengths": tokens[:, 0], "captions_each": ends})
        (root / names[2]).symlink_to(plain.name)
        counts.append(count)
        files.append(Files(*names))
    Index(
        "f00d", 256, tuple(counts), False, LENGTH, files=tuple(files),
        shapes=tuple(shapes) if len(several) > 1 else (),
    ).write(root)  # fmt: skip


def own_memory() -> int:
    """Bytes of this process that no file holds: Linux's RssAnon."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def measure(root: Path) -> None:
    """Print what opening a cache takes, splitting it, the first batch, and a batch after that."""
    torch.set_num_threads(1)
    before = own_memory()

    def step(name: str, act: Callable[[], object]) -> object:
        began = time.perf_counter()
        found = act()
        seconds = time.perf_counter() - began
        print(f"  {name:28} {seconds:9.4f} s {(own_memory() - before) / 2**20:9.1f} MiB")
        return found

    cache = step("open", lambda: LatentCache(root))
    assert isinstance(cache, LatentCache)
    rows, _ = cache.split(1000)
    step("split off 1000 rows", lambda: cache.split(1000))
    batches = Loader(rows, BATCH, seed=0).batches()
    step(f"first batch of {BATCH}", lambda: next(batches))
    step("100 batches more", lambda: sum(1 for _ in islice(batches, 100)))
    late = 7 * len(rows) // BATCH * BATCH
    step("start at the end of epoch 7", lambda: next(Loader(rows, BATCH, seed=0).batches(late)))


def main() -> None:
    """Make the caches, and measure each in a process of its own."""
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("CALOTYPE_SCRATCH")) as scratch:
        in_buckets = partial(pretend, several=SHAPES)
        for name, build, rows in (
            ("made", make, MADE), ("listed", pretend, LISTED),
            ("listed, of seven shapes", in_buckets, LISTED),
        ):  # fmt: skip
            root = Path(scratch) / name
            root.mkdir()
            began = time.perf_counter()
            build(root, rows)
            print(f"{rows:,} rows, {name} in {time.perf_counter() - began:.0f} s")
            sys.stdout.flush()
            subprocess.run([sys.executable, __file__, str(root)], check=True)


if __name__ == "__main__":
    main()
