"""What lies in a folder: how much of each kind in it and in each folder within, and since when."""

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from calotype.data.reading.formats import SUFFIXES, looks_like_picture

TEXTS = (".txt", ".caption")
"""Endings of captions, one in a file."""
TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
"""Endings of files with a row for each picture."""
ORDINARY = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|authors|citation|requirements)")
"""What names of texts begin with that are no captions."""
SAYING = re.compile(r"caption|metadata|prompt|label|annotation|description|text")
"""What names of files have in them that seem to hold captions, or other words on pictures."""
WORDS = (*TABLES, ".json", ".ndjson", ".xml", ".yaml", ".yml", ".md", ".cap", ".tags", ".prompt")
"""Endings of such files."""
SETTLED = 2_000_000_000
"""Nanoseconds after which a folder's time is trusted; clocks and file systems are as coarse."""

Kind = Literal["picture", "unread", "text", "table", "words", "other"]
"""What a file is by its name: `unread` are pictures of other formats, and `words` seem to be
captions, in no form that is known."""


@dataclass(frozen=True)
class Held:
    """What a folder holds itself."""

    pictures: int
    texts: int
    tables: tuple[str, ...]
    words: tuple[str, ...]
    """Files that seem to hold captions, in no form that is known."""
    folders: tuple[str, ...]
    changed: int
    """When something in it was added, renamed or removed, in nanoseconds; -1: too lately to
    tell."""


@dataclass
class Survey:
    """A folder, and all within it."""

    root: Path
    folders: dict[str, Held] = field(default_factory=dict)
    """By their paths from the root, whose own is empty."""
    others: Counter[str] = field(default_factory=Counter)
    """Files of no kind that is known, by their ending."""
    unread: list[str] = field(default_factory=list)
    """Pictures of formats that are not read, by their paths from the root."""

    def place(self, path: str, name: str = "") -> Path:
        """Where a folder within is, or a file in it."""
        return self.root / path / name

    @property
    def pictured(self) -> list[str]:
        """Folders that hold pictures, in their order."""
        return in_order(path for path, held in self.folders.items() if held.pictures)

    @property
    def pictures(self) -> int:
        """All there are."""
        return sum(held.pictures for held in self.folders.values())

    def with_any(self, kind: Literal["texts", "tables", "words"]) -> list[str]:
        """Folders that hold something of a kind, in their order."""
        return in_order(path for path, held in self.folders.items() if getattr(held, kind))


def in_order(folders: Iterable[str]) -> list[str]:
    """Sort folders as their files' paths are sorted."""
    return sorted(folders, key=lambda path: path and f"{path}/")


def kind_of(name: str) -> Kind:
    """What a file is by its name."""
    ending, low = ending_of(name), name.lower()
    if ending in SUFFIXES:
        return "picture"
    if looks_like_picture(name):
        return "unread"
    if ending in TEXTS:
        return "other" if ORDINARY.match(low) else "text"
    if ending in TABLES and low.startswith("metadata"):
        return "table"
    return "words" if ending in WORDS and SAYING.search(low) else "other"


def ending_of(name: str) -> str:
    """A file's ending, in lower case, with the dot."""
    return os.path.splitext(name)[1].lower()


def survey(root: Path) -> Survey:
    """Look through a folder. Links to folders are followed, and names that begin with a dot not
    read.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    found = Survey(root)
    ahead: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while ahead:
        path, above = ahead.pop()
        state = os.stat(found.place(path))
        itself = (state.st_dev, state.st_ino)
        if itself in above:  # a link goes round
            continue
        held = found.folders[path] = _held(found, path, since(state))
        ahead += [(f"{path}/{name}" if path else name, above | {itself}) for name in held.folders]
    return found


def since(state: os.stat_result) -> int:
    """When a folder was changed, as of `Held`."""
    changed = max(state.st_mtime_ns, state.st_ctime_ns)  # the latter is no one's to set back
    return changed if changed < time.time_ns() - SETTLED else -1


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, but for names that begin with a dot."""
    with os.scandir(folder) as found:
        yield from (entry for entry in found if not entry.name.startswith("."))


def files(folder: Path) -> list[str]:
    """Names of a folder's files, sorted."""
    return sorted(entry.name for entry in entries(folder) if not is_folder(entry))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link that only leads back to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _held(found: Survey, path: str, changed: int) -> Held:
    folders, names = list[str](), {kind: list[str]() for kind in get_args(Kind)}
    for entry in entries(found.place(path)):
        if is_folder(entry):
            folders.append(entry.name)
        else:
            names[kind_of(entry.name)].append(entry.name)
    speaking = _speaking(names["other"], names["picture"])
    found.others.update(ending_of(name) for name in names["other"] if name not in speaking)
    found.unread.extend(os.path.join(path, name) for name in sorted(names["unread"]))
    return Held(
        len(names["picture"]), len(names["text"]), tuple(sorted(names["table"])),
        tuple(sorted([*names["words"], *speaking])), tuple(sorted(folders)), changed,
    )  # fmt: skip


def _speaking(names: Sequence[str], pictures: Sequence[str]) -> set[str]:
    """Files of words that are called as pictures are: they speak of them, whatever they are."""
    words = {name for name in names if ending_of(name) in WORDS}
    if not words:
        return set()
    stems = {os.path.splitext(name)[0] for name in pictures}
    return {name for name in words if os.path.splitext(name)[0] in stems}
