"""Where the files of a cache are: in a folder, or in a bucket, from which they are fetched."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from calotype.data.cache.index import INDEX, TEXT_TOKENIZER, Index
from calotype.data.identity import digest
from calotype.training.claims import Claims

TRIES = 4
"""How often something is fetched before its failure is one."""


class Here:
    """A cache in a folder.

    Args:
        root: The folder.
    """

    remote = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def index(self) -> Index:
        """Read what it is."""
        return Index.read(self.root)

    def path(self, name: str) -> Path:
        """Where a file of it is."""
        return self.root / name

    def text_tokenizer(self) -> Path:
        """Where what made its tokens is."""
        return self.root / TEXT_TOKENIZER


class Bucket:
    """A cache that any file system of fsspec has: s3://bucket/latents, https://host/latents, ...

    What is read of it is kept in a folder, `CALOTYPE_SHARDS` or ~/.cache/calotype, shared by all
    processes of a machine; beyond `CALOTYPE_SHARDS_GIB`, 64, what was not read for the longest
    makes room.

    Args:
        url: Of the cache.
    """

    remote = True

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._text = self._read(INDEX).decode()
        folder = Path(os.environ.get("CALOTYPE_SHARDS") or "~/.cache/calotype").expanduser()
        # A cache that is made anew has another index, and so a folder of its own.
        self.folder = folder / digest([self.url, self._text])
        self.room = float(os.environ.get("CALOTYPE_SHARDS_GIB") or 64) * 2**30

    def __str__(self) -> str:
        return self.url

    def index(self) -> Index:
        """Read what it is."""
        return Index.parse(self._text, f"{self.url}/{INDEX}")

    def path(self, name: str) -> Path:
        """Where a file of it is, now that it is here."""
        file = self.folder / name
        try:
            os.utime(file)
        except FileNotFoundError:
            self._fetch(name, file)
        return file

    def text_tokenizer(self) -> Path:
        """Where what made its tokens is, now that it is here."""
        system, place = self._system()
        inside = f"{place}/{TEXT_TOKENIZER}"
        for file in self._tried(lambda: system.find(inside)):
            self.path(f"{TEXT_TOKENIZER}/{Path(file).name}")
        return self.folder / TEXT_TOKENIZER

    def _fetch(self, name: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".claims").open("ab+") as claims:
            Claims(claims).take(int(digest([name])[:12], 16), wait=True)  # once a machine
            if file.exists():
                return
            beside = file.with_name(f".{file.name}.partial")
            system, place = self._system()
            self._tried(lambda: system.get_file(f"{place}/{name}", str(beside)))
            self._make_room(beside.stat().st_size)
            beside.rename(file)

    def _make_room(self, need: int) -> None:
        there = [(file, file.stat()) for file in self.folder.glob("*.safetensors")]
        held = need + sum(found.st_size for _, found in there)
        for file, found in sorted(there, key=lambda each: each[1].st_mtime_ns):
            if held <= self.room:
                return
            file.unlink(missing_ok=True)  # whoever has it open keeps it
            held -= found.st_size

    def _read(self, name: str) -> bytes:
        system, place = self._system()
        try:
            return self._tried(lambda: system.cat_file(f"{place}/{name}"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"no finished cache in {self.url}: copy there what `calotype cache-latents` made"
            ) from None

    def _system(self) -> tuple[Any, str]:
        # Asked anew each time: a connection does not travel to a worker, and fsspec keeps it.
        try:
            return fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{self.url}: {error}") from error

    def _tried(self, act: Callable[[], Any]) -> Any:
        for number in range(1, TRIES + 1):
            try:
                return act()
            except FileNotFoundError:
                raise
            except OSError as error:
                if number == TRIES:
                    raise OSError(f"{self.url}: cannot be read ({error})") from error
                time.sleep(2**number / 4)
        return None


Store = Here | Bucket


URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])")
"""A path that was a URL has one slash where that had two."""


def store(root: Path | str) -> Store:
    """Where a cache's files are: in a folder, or under a URL."""
    if URL.match(str(root)):
        return Bucket(URL.sub(r"\1://", str(root), count=1))
    return Here(Path(root))
