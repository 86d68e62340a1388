"""Pictures and their captions, read into memory; captions that are classes, and what data say of
both before a picture is decoded.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from calotype.data import Pictures, Transform, some_of
from calotype.data.pictures import captions_of_all, spread
from calotype.training.images import Pixels
from calotype.training.objective import Batch
from calotype.training.progress import track

LARGEST = 1000
"""Classes: of more, captions are texts and no labels."""
LOOKED = 2 * LARGEST
"""Drawings whose classes are looked at ahead: of fewer nothing is known that all would not say."""
EACH = 64
"""Of them at a time."""


def listed(dataset: Dataset[Any], count: int | None) -> list[str] | None:
    """Captions of so many pictures from all over the data, without decoding one; None: these say
    theirs with the pictures alone.
    """
    chosen = spread(dataset, count)
    return [*captions_of_all(chosen.records)] if isinstance(chosen, Pictures) else None


def classes_of(batch: Batch, name: str, factor: int | None) -> list[str]:
    """Captions, or the values of a true factor.

    Raises:
        ValueError: a picture has none.
    """
    if factor is None:
        check_captioned(batch["caption"], name)
        return batch["caption"]
    check_factors([factor], batch.get("factors"), name)
    return [f"{value:g}" for value in batch["factors"][:, factor].tolist()]


def check_factors(factors: Sequence[int], told: Tensor | None, name: str) -> None:
    """Refuse factors that pictures do not have.

    Raises:
        ValueError: there is such a one.
    """
    has = "none" if told is None else f"{told.shape[-1]}, numbered from 0"
    for factor in factors:
        if told is None or factor >= told.shape[-1]:
            raise ValueError(f"--factor is {factor}, and of true factors {name} has {has}")


def check_ahead(
    dataset: Dataset[Any], name: str, count: int | None, factor: int | None = None
) -> None:  # fmt: skip
    """Refuse data whose captions, or whose factor, are no classes to learn from, as far as that is
    known without decoding a picture: of all that lists them, and of drawings by the first.

    Raises:
        ValueError: they are none.
    """
    captions = listed(dataset, count)
    if captions is not None:
        if factor is not None:
            check_factors([factor], None, name)
        check_learnable(captions, name)
    elif (said := _of_drawings(dataset, name, count, factor)) is not None:
        check_classes(said, name)
        if len(said) < LOOKED:
            check_learnable(said, name)


def _of_drawings(
    dataset: Any, name: str, count: int | None, factor: int | None
) -> list[str] | None:
    """Classes of the first; None: it is no set of drawings."""
    if not hasattr(dataset, "batch"):
        return None
    last = min(len(dataset), LOOKED, LOOKED if count is None else count)
    said = list[str]()
    for first in range(0, last, EACH):
        said += classes_of(dataset.batch(range(first, min(first + EACH, last))), name, factor)
    return said


def read_pictures(
    dataset: Dataset[Any], transform: Transform, count: int | None, batch_size: int
) -> tuple[Pixels, list[str]]:
    """So many, from all over the data, of a stream the first; None: all."""
    return read_factors(dataset, transform, count, batch_size)[:2]


def read_factors(
    dataset: Dataset[Any], transform: Transform, count: int | None, batch_size: int
) -> tuple[Pixels, list[str], Float[Tensor, "n f"] | None]:
    """The same, and true factors where data tell them."""
    images, said, told = list[Tensor](), list[str](), list[Tensor]()
    batches = some_of(dataset, count, transform, batch_size)
    for batch in track(batches, "batches of pictures", None):
        images.append(batch["image"])
        said += batch["caption"]
        if "factors" in batch:
            told.append(batch["factors"])
    return torch.cat(images), said, torch.cat(told) if told else None


def check_captioned(said: Sequence[str], name: str) -> None:
    """Refuse pictures without a class.

    Raises:
        ValueError: a picture has none.
    """
    if without := said.count(""):
        raise ValueError(
            f"{name}: {without} of {len(said)} pictures have no caption, which is the class: give "
            "pictures in sub-folders by class, or leave these out by data:filtered --data.words 1 9"
        )


def check_classes(said: Sequence[str], name: str) -> None:
    """Refuse captions that are no classes.

    Raises:
        ValueError: a picture has none, or too many differ.
    """
    check_captioned(said, name)
    if (classes := len(set(said))) > min(LARGEST, len(said) // 2):
        raise ValueError(
            f"{name}: {classes} different captions of {len(said)} pictures are no classes: "
            "give pictures in sub-folders by class, or captions that name it"
        )


def check_learnable(said: Sequence[str], name: str) -> None:
    """Refuse classes of which none can be learnt from and held out, both.

    Raises:
        ValueError: captions are no classes, there is one class, or one has a single picture.
    """
    check_classes(said, name)
    counts = Counter(said)
    if len(counts) < 2:
        raise ValueError(f"{name}: all pictures are of one class, {said[0]!r}: two or more are "
                         "needed to tell apart")  # fmt: skip
    if alone := [each for each, count in counts.items() if count < 2]:
        raise ValueError(
            f"{name}: class {alone[0]!r} has one picture; two are needed, one to learn from and "
            "one that is held out: add some, or leave the class out"
        )
