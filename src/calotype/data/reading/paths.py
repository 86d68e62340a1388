"""Paths as users write them, and the files that they mean."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from glob import glob
from itertools import chain
from pathlib import Path

import fsspec

from calotype.data.reading.remote import check

NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICES = re.compile(r"\{([^{}]*,[^{}]*)\}")


def files_of(path: str | Path, *suffixes: str) -> list[str]:
    """Files that a path means, those of a folder or pattern in the order of `natural`.

    A name that there is is taken as it stands, whatever brackets are in it: a file, or of a folder
    all with one of the endings, in either case, at any depth. Any other is a pattern; in it, and in
    a URL, `{00..12}` and `{a,b}` stand for each of these in turn.

    Args:
        path: A file, a folder, a pattern of files, or a URL, which may be one with `*`; `~` is the
            home.
        suffixes: Endings, in lower case, with the dot.

    Raises:
        FileNotFoundError: there is none, or not each that the braces name.
        ImportError: a library for such URLs is not installed.
    """
    named = Path(path).expanduser()
    if "://" in str(path):
        return [url for each in expanded(str(path)) for url in _elsewhere(each, suffixes)]
    if named.is_dir():
        found = [file for file in walk(named) if file.name.lower().endswith(suffixes)]
    elif named.exists():
        found = [named]
    else:
        braced = list(expanded(str(named)))
        return list(chain.from_iterable(_matching(each, suffixes) for each in braced))
    return _sorted(found, named, suffixes)


def _elsewhere(url: str, suffixes: Sequence[str]) -> list[str]:
    check(url)
    if "*" not in url:
        return [url]
    system, path = fsspec.core.url_to_fs(url)
    return _sorted([system.unstrip_protocol(file) for file in system.glob(path)], url, suffixes)


def _matching(pattern: str, suffixes: Sequence[str]) -> list[str]:
    found = [pattern] if os.path.exists(pattern) else glob(pattern, recursive=True)
    return _sorted(found, pattern, suffixes)


def _sorted(found: Sequence[str | Path], named: str | Path, suffixes: Sequence[str]) -> list[str]:
    if not found:
        kind = " or ".join(suffixes)
        raise FileNotFoundError(f"no files {named}: expected a {kind} file, pattern or folder")
    return sorted(map(str, found), key=natural)


def natural(name: str) -> list[tuple[int, str]]:
    """Key by which names are sorted with their numbers as numbers: `2.tar` before `10.tar`."""
    words = re.split(r"(\d+)", name)  # every other one is a number
    return [(int(word), word) if i % 2 else (0, word) for i, word in enumerate(words)]


def expanded(pattern: str) -> Iterator[str]:
    """Names that a pattern with braces stands for, as shells count: `{08..10}` is 08, 09, 10."""
    found = NUMBERS.search(pattern) or CHOICES.search(pattern)
    if found is None:
        yield pattern
        return
    before, after = pattern[: found.start()], pattern[found.end() :]
    for each in _numbers(*found.groups()) if found.re is NUMBERS else found[1].split(","):
        yield from expanded(f"{before}{each}{after}")


def _numbers(first: str, last: str) -> Iterator[str]:
    padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    yield from (f"{n:0{width}}" for n in range(int(first), int(last) + step, step))


def cache_home() -> Path:
    """Where indices, sizes and looks are kept: `$CALOTYPE_CACHE`, else `calotype` in the user's
    folder of caches.
    """
    if own := os.environ.get("CALOTYPE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "calotype")


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """While it is entered, no other process enters by the same file, which is made; where there
    can be none, or the file system has no locks, all do.
    """
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            import fcntl  # absent on Windows

            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
        yield


def walk(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """List a folder's files at any depth; links to folders are followed, names that begin with a
    dot are not read.

    Args:
        folder: The folder.
        above: Folders that it is in, lest links go round.
    """
    if (real := folder.resolve()) in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from walk(folder / entry.name, above | {real})
            else:
                yield folder / entry.name
