"""A folder of drawn images: each as it is, small ones enlarged on sheets, and who drew them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.pages.sheet import VISIBLE, enlarged, write_sheet
from calotype.pipelines import picture

EACH = 32
"""Images of a sheet."""


class Drawings:
    """Saves images one by one, numbered on from those that a folder has; a context that ends with
    the last sheet.

    Args:
        folder: Made with the first image.
        by: What drew them, for drawn.jsonl.
    """

    def __init__(self, folder: Path, by: Mapping[str, Any]) -> None:
        self.folder, self.by, self.number = folder, by, _next(folder)
        self.waiting: list[tuple[Tensor, str]] = []

    def add(self, image: Float[Tensor, "3 H W"], prompt: str, seed: int) -> None:
        """Save an image in [-1, 1], and a line of drawn.jsonl."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.number:03d}-{_slug(prompt)}-{seed}.png"
        beside = self.folder / f".{name}.partial"
        picture(image).save(beside, "PNG")
        beside.rename(self.folder / name)
        entry = {"file": name, "prompt": prompt, "seed": seed, **self.by}
        append(self.folder / "drawn.jsonl", entry)
        self.number += 1
        if image.shape[-1] < VISIBLE:
            self.waiting.append((image, prompt))
        if len(self.waiting) == EACH:
            self._sheet()

    def _sheet(self) -> None:
        if not self.waiting:
            return
        images, prompts = zip(*self.waiting, strict=True)
        name = f"sheet-{self.number - len(images):03d}-{self.number - 1:03d}.png"
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


def append(file: Path, entry: Mapping[str, Any]) -> None:
    """Add a line of JSON in one write; behind one that a kill cut in two, on a line of its own."""
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    with file.open("ab+") as out:
        if out.tell() and not _ends_a_line(file):
            line = "\n" + line
        out.write(line.encode())


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as text:
        text.seek(-1, 2)
        return text.read() == b"\n"


def _next(folder: Path) -> int:
    """The number behind those of pictures that are there."""
    numbers = [int(found[1]) for path in folder.glob("*.png")
               if (found := re.match(r"(\d{3,})-", path.name))]  # fmt: skip
    return max(numbers, default=-1) + 1


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "empty"
