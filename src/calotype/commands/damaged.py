"""Pictures that are to be restored, in batches of one shape."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from math import gcd
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from calotype.data import Decoding, Folder, Parquet, Pictures, Reader, Record
from calotype.data.pictures import spread
from calotype.data.reading.images import read_image
from calotype.tokenizers.preprocessing import Center, Fit, Trim, preprocessed
from calotype.training.images import Mode
from calotype.training.network import located
from calotype.training.noise import generators
from calotype.uses.restoration import Inpaint, Measurement, Task, measured

Image = Float[Tensor, "1 c H W"]


@dataclass(frozen=True)
class Given:
    """A picture, and what was seen of it."""

    name: str
    measurement: Measurement
    seen: Float[Tensor, "1 k h w"]
    truth: Image | None
    """None: it is not known."""


@dataclass(frozen=True)
class Pieces:
    """How pictures become what was seen of them."""

    task: Task
    degrade: bool
    """Whether they are clean, and are spoilt here."""
    size: int | None
    """Pixels a side of what is restored, of the central square; None: as large as they are."""
    factor: int
    """Pixels that sides of images are a multiple of."""
    mode: Mode
    seed: int

    def given(self, number: int, name: str, opened: Any) -> Given:
        """What was seen of a picture.

        Raises:
            ValueError: it is too small, or the task is for others.
        """
        shrinks = self.task.shrinks
        least = self.factor * shrinks // gcd(self.factor, shrinks)  # divisible by both
        multiple = least if self.degrade else least // shrinks
        side = self.size if self.degrade or not self.size else self.size // shrinks
        fit = Center(side) if side else Trim()
        if min(opened.size) < multiple and not side:
            raise ValueError(
                f"{name} is {opened.width}x{opened.height}, and a side has {multiple} pixels or "
                "more here: give larger pictures, or --size"
            )
        image = preprocessed(opened, fit, multiple, self.mode)
        grown = 1 if self.degrade else shrinks
        try:
            measurement = self._measurement(opened, fit, multiple, image, grown)
            if not self.degrade:
                return Given(name, measurement, measurement.read(image), None)
            chance = generators([self.seed * 1_000_003 + number])
            return Given(name, measurement, measurement.drawn(image, chance), image)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _measurement(
        self, opened: Any, fit: Fit, multiple: int, image: Float[Tensor, "_ _ _ _"], grown: int
    ) -> Measurement:
        """A mask of a picture's size is cut as it is, and lies where it lay; another is fitted."""
        if isinstance(self.task, Inpaint) and self.task.mask is not None:
            mask = read_image(self.task.mask, str(self.task.mask), Decoding(mode="L"))
            if mask.size == opened.size:
                return self.task.hiding((preprocessed(mask, fit, multiple, "L")[0] > 0).float())
        return measured(self.task, *(side * grown for side in image.shape[-2:]))


def pictures_of(path: Path, mode: Mode, count: int | None) -> Pictures:
    """A picture, those of a folder, or those of a parquet file; so many at most.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.suffix == ".parquet":
        found = Parquet(path, caption_column=None).build()
    elif path.is_file():
        found = Pictures([Record(path, str(path), "")], Reader("stop", str(path)))
    else:
        found = Folder(path, captions="none").build()
    some = spread(found, count)
    assert isinstance(some, Pictures)
    return some.decoded_by(Decoding(mode=mode))


def batches(
    pictures: Pictures, pieces: Pieces, batch_size: int, wrong: dict[str, str]
) -> Iterator[list[Given]]:
    """Pictures that follow each other and are of one shape. Those that are broken or too small are
    left out, and noted with what is wrong.
    """
    every = _every(pictures, pieces, wrong)
    for _, alike in groupby(every, lambda each: each.seen.shape):
        while batch := list(islice(alike, batch_size)):
            yield batch
    wrong |= pictures.reader.skipped


def _every(pictures: Pictures, pieces: Pieces, wrong: dict[str, str]) -> Iterator[Given]:
    for i in range(len(pictures)):
        if (one := pictures.read_one(i)) is None:
            continue
        name = one.get("name", f"picture {i}")
        try:
            yield pieces.given(i, name, one["image"])
        except ValueError as error:
            wrong[name] = str(error)


def learnt_by(model: str) -> dict[str, Any] | None:
    """Of which corruption a tokenizer's run, beside it, was: its fields, `type` the name of its
    class, empty for none; None: there is no run.
    """
    folder = Path(located(model, "model"))
    file = folder.parent / "recipe.json"
    if not (folder.is_dir() and file.is_file()):
        return None
    return json.loads(file.read_text()).get("corruption") or {}
