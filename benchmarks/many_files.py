"""Folders of very many pictures: seconds to start, the first time and the second, memory of a
process, and microseconds to find a picture at random.

    python benchmarks/many_files.py made 1000000 texts
    python benchmarks/many_files.py index 10000000 metadata
    python benchmarks/many_files.py index 10000000 metadata buckets

`made` makes the files: links to one picture in folders of a thousand, with a text beside each, a
metadata file, or the folders' names as captions. `index` makes the folders and writes the index,
as if the pictures had been looked through: its first start is that writing; of the files those are
there that are asked for their times. `buckets` sorts the pictures into aspect buckets too, by sizes
that are kept, and draws a thousand batches' indices. Each start is a process of its own. Memory is
that which is resident after a million pictures (or all) were found at random, of it what no other
process can share, and the same of a worker that was forked.
"""

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from calotype.data import Buckets, Folder, Loader, Transform
from calotype.data.folders.indexing import Indexing
from calotype.data.folders.keeping import keep, kept_in
from calotype.data.folders.layouts import Captions, Found, Pictured
from calotype.data.folders.survey import Survey, survey
from calotype.data.reading import looks
from calotype.data.splits import Spread

EACH = 1000
"""Pictures in a folder."""
LINKS = 30_000
"""Links to one file; file systems allow some 65,000."""
LOOKED_UP = 1_000_000


def caption(number: int) -> str:
    """As long as many are."""
    return f"picture {number} of a set of very many, with a caption of some length"


def make(root: Path, count: int, captions: Captions) -> None:
    """The pictures."""
    rows = (root / "metadata.jsonl").open("w") if captions == "metadata" else None
    for i in range(count):
        folder = root / f"{i // EACH:05d}"
        picture, text = folder / f"{i:08d}.png", folder / f"{i:08d}.txt"
        if i % EACH == 0:
            folder.mkdir()
        if i % LINKS == 0:
            Image.new("RGB", (16, 16)).save(picture)
            first = picture, text
            if captions == "texts":
                text.write_text(caption(i))
        else:
            os.link(first[0], picture)
            if captions == "texts":
                os.link(first[1], text)
        if rows:
            row = {"file_name": f"{folder.name}/{picture.name}", "text": caption(i)}
            rows.write(json.dumps(row) + "\n")
    if rows:
        rows.close()


@dataclass(frozen=True)
class Numbered:
    """A layout of pictures that are not there."""

    count: int
    name: Captions

    def pictures(self, found: Survey) -> Iterator[Pictured]:
        """Give them."""
        for k, folder in enumerate(sorted(found.folders)[1:]):  # the first is the root
            numbers = range(k * EACH, min((k + 1) * EACH, self.count))
            yield Pictured(folder, map(self._found, numbers), folder)

    def _found(self, i: int) -> Found:
        text = f"{i:08d}.txt" if self.name == "texts" else None
        said = (caption(i),) if self.name == "metadata" else ()
        return Found(f"{i:08d}.png", True, text, said)


def write_index(root: Path, count: int, captions: Captions) -> None:
    """The folders, and an index of pictures in them."""
    for k in range(-(-count // EACH)):
        (root / f"{k:05d}").mkdir()
    for i in Spread(count, min(count, looks.STAMPED)):
        Path(root, f"{i // EACH:05d}", f"{i:08d}.png").touch()
    time.sleep(2.1)  # until they are trusted
    home = kept_in(root, "found", "refuse")
    home.mkdir(parents=True)
    started = time.perf_counter()
    keep(Indexing(survey(root), Numbered(count, captions), "refuse"), home)  # type: ignore[arg-type]
    size = sum(file.stat().st_size for file in home.rglob("*.arrow"))
    took = time.perf_counter() - started
    print(f"writing the index: {took:.1f} s, {size / 2**20:.0f} MiB", flush=True)


def write_sizes(root: Path, count: int) -> None:
    """Sizes that were kept of all."""
    data = Folder(root).build()
    sizes = np.random.default_rng(0).integers(200, 400, (count, 2))
    file = looks._place(data, "sizes", looks.STAMPED)
    assert file
    looks._keep(file, {"sizes": torch.from_numpy(sizes)})


def start(root: Path, how: str) -> None:
    """Start once, in this process, and print a row."""
    import_only = memory()
    started = time.perf_counter()
    data = Folder(root).build()
    data.identity()
    if how == "buckets":
        loader = Loader(data, 64, seed=0, transform=Transform(Buckets(256, 8)))
        draws = loader._draws(range(0, 64000, 64), 64)  # type: ignore[attr-defined]
        assert sum(1 for _ in draws) == 1000
    took, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    entries = data.records.entries  # type: ignore[attr-defined]
    chosen = np.random.default_rng(0).permutation(len(entries))[:LOOKED_UP]
    started = time.perf_counter()
    for i in chosen:
        entries[int(i)]
    each = (time.perf_counter() - started) / len(chosen)
    of_this = memory()
    with multiprocessing.get_context("fork").Pool(1, look_up, (entries,)) as pool:
        of_worker = pool.apply(memory)
    print(f"| {len(entries):,} | {took:.2f} | {peak / 2**10:.0f} | {import_only} | {of_this} | "
          f"{of_worker} | {1e6 * each:.1f} |", flush=True)  # fmt: skip


def look_up(entries) -> None:
    """What a worker does."""
    for i in np.random.default_rng(1).permutation(len(entries))[: LOOKED_UP // 10]:
        entries[int(i)]


def memory() -> str:
    """MiB of this process, and of it its own alone."""
    found = psutil.Process().memory_full_info()
    return f"{found.rss / 2**20:.0f} ({found.uss / 2**20:.0f})"


def main(how: str, count: int, captions: Captions, sorts: str) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CALOTYPE_CACHE"] = f"{scratch}/cache"
        root = Path(scratch, "pictures")
        root.mkdir()
        started = time.perf_counter()
        {"made": make, "index": write_index}[how](root, count, captions)
        print(f"{count:,} {captions}, {how} in {time.perf_counter() - started:.0f} s\n")
        print("| pictures | s to start | peak MiB then | MiB (own) before | after | of a worker | "
              "us a picture |\n|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
        time.sleep(2.1)
        if how == "index" and sorts == "buckets":
            write_sizes(root, count)
        for _ in range(2 if how == "made" else 1):
            subprocess.run([sys.executable, __file__, "start", str(root), sorts], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "start":
        start(Path(sys.argv[2]), sys.argv[3])
    else:
        sorts = "".join(sys.argv[4:])
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sorts)  # type: ignore[arg-type]
