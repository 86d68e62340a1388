"""What tells data from other data, so that no run goes on with what it was not begun with."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch.utils.data import Dataset

Identity = Callable[[], str]
"""Says it when it is asked: to look at a million files takes its time."""


def identity(dataset: Dataset | None) -> str | None:
    """What tells a dataset from others; None: nothing does, or its recipe says all of it."""
    asked: Identity | None = getattr(dataset, "identity", None)
    return asked and asked()


def identified(**datasets: Dataset | None) -> dict[str, str]:
    """What tells datasets from others, of those of which something does."""
    known = {name: identity(dataset) for name, dataset in datasets.items()}
    return {name: each for name, each in known.items() if each is not None}


def drawn(dataset: Dataset | None) -> dict[str, str]:
    """What tells the data of a run from others, and a stream's order from that of versions before,
    which drew it from one place: a run that began so is not resumed in another.
    """
    known, lanes = identified(data=dataset), getattr(dataset, "lanes", None)
    return {name: f"{each}, in {lanes} lanes" if lanes else each for name, each in known.items()}


def of_files(files: Sequence[str | Path], root: str | Path | None = None, what: str = "") -> str:
    """How many there are, and a digest of their names and sizes: `12 pictures, 1f3870be274f6c49`.
    That their folder was moved does not change it.

    Args:
        files: Where they are.
        root: Folder that names are counted from; None: the one that all are in.
        what: What they are called; with nothing, files.
    """
    paths = [os.path.abspath(file) for file in files]
    within = os.path.abspath(root) if root else os.path.commonpath([*map(os.path.dirname, paths)])
    names = sorted((os.path.relpath(path, within), bytes_of(path)) for path in paths)
    return f"{len(files)} {what or 'files'}, {digest(f'{name} {size}' for name, size in names)}"


def bytes_of(path: str | Path) -> int:
    """Bytes of a file; -1: it cannot be read, and whoever reads it meets the policy for that."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def digest(lines: Iterable[str]) -> str:
    """A short name for a list of lines."""
    found = hashlib.sha256()
    for line in lines:
        found.update(f"{line}\n".encode(errors="surrogateescape"))
    return found.hexdigest()[:16]
