"""Indices of large folders are kept in the user's folder of caches, and found again."""

import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4
from warnings import warn

from calotype.data.folders.index import Index
from calotype.data.folders.indexing import Indexing, Uncaptioned
from calotype.data.folders.layouts import Captions, Layout, Metadata, layout
from calotype.data.folders.survey import TABLES, Survey, survey
from calotype.data.identity import digest
from calotype.data.reading.formats import SUFFIXES
from calotype.data.reading.paths import alone, cache_home
from calotype.mistakes import is_disk_full
from calotype.training.files import write_text

VERSION = 1
KEPT_FROM = 100_000
"""Pictures from which on an index is kept; fewer are looked through anew in a second or two."""
ROW = 100
"""Bytes of a row in a metadata file, about."""
PARTIAL, DAY = ".partial-", 24 * 60 * 60.0
NEWEST = "newest.json"
"""Names the index that counts: written last, in one step."""


def indexed(path: Path, captions: Captions, uncaptioned: Uncaptioned) -> Index:
    """Look through a folder of pictures, or through what a metadata file names; of a large one, if
    it is what it was, the index that is kept is taken.

    Raises:
        FileNotFoundError: there is no such folder, no picture in it, or not each that the
            metadata name.
        ValueError: it is not clear how captions lie in it, or some cannot be read or are missing.
        OSError: there is no room for the index.
    """
    home = kept_in(path, captions, uncaptioned)
    root = path.parent if path.is_file() else path
    if (kept := _kept(home, root)) is not None:
        return kept
    found, how = _looked_through(path, captions)
    if _rows(found, how) >= KEPT_FROM and _is_writable(home):
        with alone(home / "lock"):
            # Another process may have written it meanwhile.
            return _kept(home, root) or _keep(home, found, how, uncaptioned)
    with TemporaryDirectory(prefix="calotype-") as scratch:
        Indexing(found, how, uncaptioned).write(Path(scratch))
        return Index(root, Path(scratch), mapped=False)


def kept_in(path: Path, captions: Captions, uncaptioned: Uncaptioned) -> Path:
    """Where the index of a folder is kept."""
    asked = [str(VERSION), os.path.abspath(path), captions, uncaptioned, *sorted(SUFFIXES)]
    return cache_home() / "folders" / digest(asked)


def _looked_through(path: Path, captions: Captions) -> tuple[Survey, Layout]:
    if not path.is_file():
        found = survey(path)
        return found, layout(found, captions)
    if path.suffix.lower() not in TABLES:
        raise ValueError(
            f"{path} is a file: expected a folder, or a metadata file ({', '.join(TABLES)})"
        )
    return Survey(path.parent), Metadata((path,))


def _rows(found: Survey, how: Layout) -> int:
    """How many pictures there are, about, before metadata are read."""
    tables = how.tables if isinstance(how, Metadata) else ()
    return max(found.pictures, *(table.stat().st_size // ROW for table in tables), 0)


def _kept(home: Path, root: Path) -> Index | None:
    """The index that is kept, if it is true."""
    try:
        index = Index(root, home / json.loads((home / NEWEST).read_text()), mapped=True)
    except (OSError, ValueError):  # none, or one that was removed or cut off meanwhile
        return None
    return index if index.is_true() else None


def _keep(home: Path, found: Survey, how: Layout, uncaptioned: Uncaptioned) -> Index:
    print(
        f"calotype: looking through {found.root}; what is found is kept in {home}, so that the "
        "next start is quick (CALOTYPE_CACHE names another place)", file=sys.stderr, flush=True,
    )  # fmt: skip
    return keep(Indexing(found, how, uncaptioned), home)


def keep(indexing: Indexing, home: Path) -> Index:
    """Write an index and let it count from now on."""
    name = uuid4().hex
    try:
        with TemporaryDirectory(dir=home, prefix=PARTIAL) as scratch:
            files = Path(scratch, name)
            files.mkdir()
            indexing.write(files)
            files.rename(home / name)
    except OSError as error:
        if is_disk_full(error):
            raise OSError(
                f"{home}: no room for an index of {indexing.survey.root}; make room, or name "
                "another folder by CALOTYPE_CACHE"
            ) from error
        raise
    with suppress(OSError, ValueError):
        _remove_but(home, {name, json.loads((home / NEWEST).read_text())})
    write_text(home / NEWEST, json.dumps(name))
    return Index(indexing.survey.root, home / name, mapped=True)


def _remove_but(home: Path, names: set[str]) -> None:
    """Remove old indices, but for the last: another process may still hand it to its workers; and
    what was begun a day ago and left.
    """
    for folder in (each for each in home.iterdir() if each.is_dir() and each.name not in names):
        if not folder.name.startswith(PARTIAL) or folder.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(folder, ignore_errors=True)


def _is_writable(home: Path) -> bool:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=home):
            return True
    except OSError as error:
        warn(
            f"{home} cannot be written ({error.strerror}): each start looks through all pictures; "
            "name another folder by CALOTYPE_CACHE", stacklevel=2,
        )  # fmt: skip
        return False
