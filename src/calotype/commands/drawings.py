"""A folder of drawn images: each as it is, small ones enlarged on sheets, and who drew them."""

import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from calotype.commands.shared import Shared
from calotype.data.reading.images import read_image
from calotype.lazy import diffusers
from calotype.pages.sheet import VISIBLE, enlarged, write_sheet
from calotype.pipelines import picture
from calotype.training.distributed import processes

EACH = 32
"""Images of a sheet."""
LONGEST = 120
"""Bytes of a prompt in a file's name, which has 255 at most."""
KEY = "calotype"
"""Of a PNG's text that says how it was drawn."""


@dataclass(frozen=True)
class Planned:
    """A picture of a folder before it is there."""

    key: str
    """What it is drawn from; pictures of one key are one picture."""
    prompt: str
    seeds: Sequence[int]
    """Of its candidates; the file is named by the one that is kept."""
    toward: Mapping[str, Any] | None = None
    """The other end of a way that it lies on."""


class Drawings:
    """Saves images one by one, numbered on from those that a folder has; a context that ends with
    the last sheet. Several processes may fill a folder at a time.

    Args:
        folder: Made with the first image, or when what is to be drawn is planned.
        by: What drew them, for drawn.jsonl.
    """

    def __init__(self, folder: Path, by: Mapping[str, Any]) -> None:
        self.folder, self.by = folder, by
        self.planned: dict[int, Planned] = {}
        self.left: list[int] = []
        """Numbers of planned pictures that were not there; the same of ranks that share them."""
        self.waiting: list[tuple[int, Tensor, str]] = []
        self._opened: Shared | None = None

    @property
    def _shared(self) -> Shared:
        if self._opened is None:
            self._opened = Shared(self.folder)
        return self._opened

    def plan(self, pictures: Sequence[Planned]) -> int:
        """Number what is to be drawn, and say how many are not there yet."""
        with self._shared.alone():
            numbers = self._shared.plan([each.key for each in pictures], _next(self.folder))
            self.planned = dict(zip(numbers, pictures, strict=True))
            noted = {line.get("file") for line in self._shared.drawn()}
            there = {number: file for number in numbers if (file := self._file(number))}
            for number, file in there.items():
                if file not in noted:  # a kill came between
                    seed = int(Path(file).stem.rsplit("-", 1)[1])
                    self._note(file, self.planned[number], seed)
        self.left = [number for number in numbers if number not in there]
        return len(self.left)

    def claimed(self, size: int) -> Iterator[list[int]]:
        """Numbers of planned pictures that nobody else draws, up to `size` at a time; let go of
        when the next are asked for. Which ones are drawn together does not depend on who draws
        them: of images that are drawn with others or with fewer, the last bits differ.
        """
        groups = [self.left[i : i + size] for i in range(0, len(self.left), size)]
        found = True
        while found:  # again, for what another process has claimed and was killed over
            found = False
            for group in groups:
                if taken := self._taken(group):
                    found = True
                    yield taken
                    for number in taken:
                        self._shared.release(number)

    def _taken(self, group: Sequence[int]) -> list[int]:
        """Those of a group that this process claims; who claims the first has all of them."""
        left = [number for number in group if not self._file(number)]
        if not left or not self._claim(left[0]):
            return []
        return [left[0], *filter(self._claim, left[1:])]

    def _claim(self, number: int) -> bool:
        if self._file(number) or not self._shared.claim(number):
            return False
        if self._file(number):  # since it was looked for
            self._shared.release(number)
            return False
        return True

    def _file(self, number: int) -> str | None:
        """A planned picture's file; None: it is not drawn."""
        planned = self.planned[number]
        names = (_name(number, planned.prompt, seed) for seed in planned.seeds)
        return next((name for name in names if (self.folder / name).exists()), None)

    def missing(self) -> int:
        """How many of the planned pictures are not there."""
        return sum(self._file(number) is None for number in self.planned)

    def add(
        self, image: Float[Tensor, "c H W"], prompt: str, seed: int, number: int | None = None,
        how: Mapping[str, Any] | None = None,
    ) -> Path:  # fmt: skip
        """Save an image in [-1, 1], and a line of drawn.jsonl.

        Args:
            image: What was drawn.
            prompt: Of what.
            seed: Of its noise.
            number: Of the planned picture that it is; None: the next.
            how: What is written into the PNG, as JSON.
        """
        toward = (how or {}).get("toward")
        planned = Planned("", prompt, (), toward) if number is None else self.planned[number]
        file = io.BytesIO()
        picture(image).save(file, "PNG", pnginfo=_text(how))
        with self._shared.alone():
            if number is None:
                number = self._shared.free(_next(self.folder))
            name = _name(number, prompt, seed)
            beside = self.folder / f".{name}.partial"
            beside.write_bytes(file.getvalue())
            beside.rename(self.folder / name)
            self._note(name, planned, seed)
        if processes().num_processes == 1:
            self._show(number, image, _caption(prompt, seed, toward))
        return self.folder / name

    def show_all(self) -> None:
        """Put on sheets what ranks have drawn together; by one of them, when all is there."""
        for number in self.left:
            planned, name = self.planned[number], self._file(number)
            if name is not None:
                seed = int(Path(name).stem.rsplit("-", 1)[1])
                levels = torch.from_numpy(np.array(_opened(self.folder / name)))
                image = levels.permute(2, 0, 1) / 127.5 - 1
                self._show(number, image, _caption(planned.prompt, seed, planned.toward))

    def _show(self, number: int, image: Float[Tensor, "c H W"], caption: str) -> None:
        if image.shape[-1] < VISIBLE:
            self.waiting.append((number, image, caption))
        if len(self.waiting) == EACH:
            self._sheet()

    def _note(self, name: str, planned: Planned, seed: int) -> None:
        entry = {"file": name, "prompt": planned.prompt, "seed": seed, **self.by}
        more = {"toward": planned.toward, "key": planned.key}
        self._shared.note({**entry, **{each: said for each, said in more.items() if said}})

    def grid(self, columns: int) -> Path:
        """Write all planned pictures, which are there, as one."""
        files = [self.folder / str(self._file(number)) for number in self.planned]
        numbers = list(self.planned)
        path = self.folder / f"grid-{min(numbers):03d}-{max(numbers):03d}.png"
        images = [_opened(file) for file in files]
        rows = -(-len(images) // columns)
        images += [Image.new("RGB", images[0].size, "white")] * (rows * columns - len(images))
        beside = path.with_name(f".{path.name}.partial")
        diffusers.utils.make_image_grid(images, rows, columns).save(beside, "PNG")
        return beside.rename(path)

    def _sheet(self) -> None:
        if not self.waiting:
            return
        numbers, images, prompts = zip(*self.waiting, strict=True)
        name = f"sheet-{numbers[0]:03d}-{numbers[-1]:03d}.png"
        side = enlarged(images[0].shape[-1])
        write_sheet(self.folder / name, torch.stack(images), prompts, columns=4, side=side)
        self.waiting = []

    def __enter__(self) -> "Drawings":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._sheet()
        if self._opened is not None:
            with self._opened.alone():
                self._opened.settle()
            self._opened.close()


def _caption(prompt: str, seed: int, toward: Mapping[str, Any] | None) -> str:
    """What stands under a picture of a sheet: its prompt, and how far it is from it."""
    if toward is None or not toward["part"]:
        return prompt
    end = f"seed {toward['seed']}" if toward["seed"] != seed else toward["prompt"]
    return f"{prompt}, {toward['part']:.0%} toward {end}"


def _opened(file: Path) -> Image.Image:
    """A picture on white, its file closed again: of a thousand too many would be open at once."""
    with Image.open(file) as picture:
        return read_image(picture, file.name)


def _text(how: Mapping[str, Any] | None) -> PngInfo:
    text = PngInfo()
    if how is not None:
        text.add_itxt(KEY, json.dumps(how, ensure_ascii=False))
    return text


def _next(folder: Path) -> int:
    """The number behind those of pictures that are there."""
    numbers = [int(found[1]) for path in folder.glob("*.png")
               if (found := re.match(r"(\d{3,})-", path.name))]  # fmt: skip
    return max(numbers, default=-1) + 1


def _name(number: int, prompt: str, seed: int) -> str:
    return f"{number:03d}-{_slug(prompt)}-{seed}.png"


def _slug(prompt: str) -> str:
    """Letters, digits and their marks of any script, in NFC, with dashes between; cut where it has
    60 characters or is too many bytes.
    """
    text = unicodedata.normalize("NFC", prompt.lower())
    kept = (each if unicodedata.category(each)[0] in "LMN" else "-" for each in text)
    slug = re.sub("-+", "-", "".join(kept)).strip("-")[:60]
    return slug.encode()[:LONGEST].decode(errors="ignore").strip("-") or "empty"
