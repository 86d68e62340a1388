"""Paths as users write them, and the files that they mean."""

import os
from collections.abc import Iterator
from glob import glob
from pathlib import Path

from calotype.data.remote import check


def files_of(path: str | Path, *suffixes: str) -> list[str]:
    """Files that a path means, sorted.

    A name that there is is taken as it stands, whatever brackets are in it: a file, or of a folder
    all with one of the endings, in either case, at any depth. Any other is a pattern.

    Args:
        path: A file, a folder, a pattern of files, or a URL, which stays as it is; `~` is the home.
        suffixes: Endings, in lower case, with the dot.

    Raises:
        FileNotFoundError: there is none.
        ImportError: a library for such URLs is not installed.
    """
    if "://" in str(path):
        check(str(path))
        return [str(path)]
    named = Path(path).expanduser()
    if named.is_dir():
        found = [file for file in walk(named) if file.suffix.lower() in suffixes]
    else:
        found = [named] if named.exists() else glob(str(named), recursive=True)
    if not found:
        kind = " or ".join(suffixes)
        raise FileNotFoundError(f"no files {named}: expected a {kind} file, pattern or folder")
    return sorted(map(str, found))


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
