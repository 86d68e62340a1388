"""Indices of large tars are kept in the user's folder of caches, and found again."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from calotype.data.archives.tars import Endings, Index, indexed
from calotype.data.cache.provenance import stamped
from calotype.data.identity import digest
from calotype.data.reading.paths import cache_home

VERSION = 2
KEPT_FROM = 2**26
"""Bytes of a tar from which on its index is kept; a smaller one is looked through in a moment."""
AT_ONCE = 8
"""Tars that are looked through at once: disks that are far take their time for each header."""


def looked_through(tars: Sequence[str], endings: Endings) -> list[Index]:
    """Look through tars on disk, or take the indices that are kept of those that are what they
    were.

    Raises:
        ValueError: a tar is broken or cut off; the message names it.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(partial(_looked_through, endings=endings), tars))


def _looked_through(tar: str, endings: Endings) -> Index:
    said = os.stat(tar)
    if said.st_size < KEPT_FROM:
        return indexed(tar, endings)
    what = (VERSION, os.path.abspath(tar), said.st_size, said.st_mtime_ns, *astuple(endings))
    home = cache_home() / "tars" / f"{digest(map(str, what))}.safetensors"
    with suppress(OSError, SafetensorError):  # none, or one that was cut off
        return _read(home, tar, stamped(said))
    index = indexed(tar, endings)
    with suppress(OSError):  # a place that cannot be written: each start looks through them
        _write(home, index)
    return index


def _write(home: Path, index: Index) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    names = np.frombuffer(index.names, np.uint8)
    said = {"endings": json.dumps(dict(index.endings)), "bare": json.dumps(list(index.bare))}
    beside = home.with_name(f".{uuid4().hex}.partial")
    try:
        save_file({"places": index.places, "names": names, "ends": index.ends}, beside, said)
        beside.rename(home)
    finally:
        beside.unlink(missing_ok=True)


def _read(home: Path, tar: str, stamp: str) -> Index:
    with safe_open(home, "np") as kept:
        places, names, ends = (kept.get_tensor(name) for name in ("places", "names", "ends"))
        said = kept.metadata()
    endings, bare = json.loads(said["endings"]), json.loads(said["bare"])
    return Index(tar, places, names.tobytes(), ends, endings, bare, stamp)
