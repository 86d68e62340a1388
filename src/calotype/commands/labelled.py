"""Pictures and their captions, read into memory; captions that are classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from calotype.data import Source, Transform, some_of
from calotype.training.images import Pixels
from calotype.training.progress import track

LARGEST = 1000
"""Classes: of more, captions are texts and no labels."""


def read_pictures(
    source: Source, transform: Transform, count: int | None, batch_size: int
) -> tuple[Pixels, list[str]]:
    """So many, from all over the data, of a stream the first; None: all."""
    images: list[Tensor] = []
    said: list[str] = []
    batches = some_of(source.build(), count, transform, batch_size)
    for batch in track(batches, "batches of pictures", None):
        images.append(batch["image"])
        said += batch["caption"]
    return torch.cat(images), said


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
