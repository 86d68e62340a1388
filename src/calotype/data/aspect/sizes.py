"""Widths and heights of a dataset's pictures, of which only the headers are read, and once."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int32
from torch.utils.data import Dataset

from calotype.data.pictures import Pictures
from calotype.data.reading.looks import STAMPED, measured, size_of, survey

Sizes = Int32[np.ndarray, "_ 2"]
"""Width and height of each picture, upright, in pixels; 0 and 0: it is broken."""

MANY = 10_000
"""Pictures from which on their sizes are kept from run to run."""
_KNOWN: WeakKeyDictionary[Dataset[Any], Sizes] = WeakKeyDictionary()


def sizes(dataset: Dataset[Any], stamped: int | None = STAMPED) -> Sizes:
    """Sizes of a map-style dataset's pictures. Those of many are kept in the user's cache folder,
    as `calotype.data.reading.looks.survey` keeps them; what is broken is skipped, or stops, as its
    source says, and was it once, it is tried again. A dataset of another kind may know them itself,
    by a method `sizes()`; else its pictures are decoded.

    Args:
        dataset: The pictures.
        stamped: Files that are asked whether they changed since; None: all.

    Raises:
        BrokenImage: a picture is broken, and the source's policy is "stop".
        OSError: a file cannot be read, which is no fault of the picture.
    """
    if dataset not in _KNOWN:
        _KNOWN[dataset] = _found(dataset, stamped)
    return _KNOWN[dataset]


def _found(dataset: Dataset[Any], stamped: int | None) -> Sizes:
    asked: Callable[[], Sizes] | None = getattr(dataset, "sizes", None)
    if asked:
        return asked()
    if not isinstance(dataset, Pictures):
        total = len(dataset)  # pyright: ignore[reportArgumentType] (map-style datasets have one)
        found = [dataset[i]["image"].size for i in range(total)]
        return np.array(found, np.int32).reshape(-1, 2)
    if len(dataset) < MANY:
        found = measured(dataset, "sizes", size_of).astype(np.int32)
    else:
        found = survey(dataset, "sizes", size_of, stamped).astype(np.int32)
    for i in np.flatnonzero(found[:, 0] == 0).tolist():
        if example := dataset.read_one(i):
            found[i] = example.get("size", example["image"].size)
    return found
