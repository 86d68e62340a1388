"""Rows that are there already, of which new shards of a cache may be made."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt64
from torch import Tensor

from calotype.data.cache.mapped import mapped
from calotype.data.cache.provenance import Provenance
from calotype.data.cache.shards import made_of


class Stock:
    """Rows in a folder of which new shards may be made, found by what they were made of; 40 bytes
    of memory for each.

    Args:
        root: The folder.
        pictures: Names of the `pictures` files of their shards.
    """

    def __init__(self, root: Path, pictures: Sequence[str]) -> None:
        self.root, self.shards = root, list[str]()
        self.broken: dict[tuple[str, str], tuple[Provenance, str]] = {}
        names, stamped, digests = [], [], []
        for shard, listing in filter(None, (made_of(root, name) for name in pictures)):
            self.shards.append(shard.latents)
            names.append(_hashes(each.name for each in listing.rows))
            stamped.append(_hashes(f"{each.name}\0{each.stamp}" for each in listing.rows))
            digests.append("".join(each.digest for each in listing.rows))
            for each, reason in zip(listing.broken, listing.reasons, strict=True):
                self.broken[each.name, each.stamp] = each, reason
        self._mapped = lru_cache(maxsize=8)(mapped)
        self.ends = np.cumsum([len(each) for each in names], dtype=np.int64)
        self.digests = np.frombuffer(bytes.fromhex("".join(digests)), ">u8").reshape(-1, 2)
        self._names, self._stamped = (
            _Sorted(np.concatenate([*each, _NONE])) for each in (names, stamped)
        )
        self._digests = _Sorted(self.digests[:, 0].astype(np.uint64))

    def __len__(self) -> int:
        return len(self.digests)

    def digest(self, name: str, stamp: str) -> str | None:
        """The digest of a picture of this name and stamp; None: there was none such."""
        found = next(self._stamped.find(_hash(f"{name}\0{stamp}")), None)
        return None if found is None else self.digests[found].tobytes().hex()

    def knows(self, name: str) -> bool:
        """Whether there is a row of a picture of this name."""
        return next(self._names.find(_hash(name)), None) is not None

    def row(self, digest: str) -> tuple[str, int] | None:
        """The file and the place in it of a row that was made of this; None: there is none."""
        wanted = int(digest[:16], 16), int(digest[16:], 16)
        for place in self._digests.find(wanted[0]):
            if int(self.digests[place, 1]) == wanted[1]:
                number = int(np.searchsorted(self.ends, place, side="right"))
                first = int(self.ends[number - 1]) if number else 0
                return self.shards[number], place - first
        return None

    def tensors(self, file: str, row: int, crops: int) -> dict[str, Tensor]:
        """A row, of each crop one."""
        stored = self._mapped(self.root / file)
        return {n: values[row * crops : (row + 1) * crops] for n, values in stored.items()}


_NONE = np.empty(0, np.uint64)


class _Sorted:
    """Numbers, found by bisection."""

    def __init__(self, values: UInt64[np.ndarray, " n"]) -> None:
        self.order = np.argsort(values, kind="stable")
        self.values = values[self.order]

    def find(self, value: int) -> Iterator[int]:
        """The places that a number has, in order."""
        at = int(np.searchsorted(self.values, np.uint64(value)))
        while at < len(self.values) and self.values[at] == value:
            yield int(self.order[at])
            at += 1


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _hashes(texts: Iterator[str]) -> UInt64[np.ndarray, " n"]:
    return np.array([_hash(text) for text in texts], dtype=np.uint64)
