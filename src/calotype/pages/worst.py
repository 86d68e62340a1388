"""The page of the pictures that a tokenizer does worst: original, decoded, and what is between."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from calotype.lazy import torchvision
from calotype.pages.render import data_url, render
from calotype.training.files import write_text

GAIN = 4
"""By how much differences are brightened: a level more or less is seen by nobody."""


@dataclass(frozen=True)
class Rebuilt:
    """A picture and what became of it."""

    name: str
    psnr: float
    """In dB."""
    real: UInt8[Tensor, "3 H W"]
    """As one looks at it, alpha over a checkerboard."""
    fake: UInt8[Tensor, "3 H W"]


def write_worst(path: Path, title: str, lines: Sequence[str], shown: Sequence[Rebuilt]) -> None:
    """Write the page to one HTML file, in one step: pictures in the order in which they are given,
    under lines that say of what.
    """
    rows = [_row(rank, each) for rank, each in enumerate(shown, 1)]
    write_text(path, render("worst.html", title=title, lines=lines, rows=rows, gain=GAIN))


def _row(rank: int, each: Rebuilt) -> dict[str, Any]:
    apart = (each.real.int() - each.fake.int()).abs().mul(GAIN).clamp(max=255).byte()
    pictures = {"original": each.real, "decoded": each.fake, "difference": apart}
    return {"rank": rank, "name": each.name, "psnr": f"{each.psnr:.2f}",
            "pictures": {what: _source(pixels) for what, pixels in pictures.items()}}  # fmt: skip


def _source(pixels: UInt8[Tensor, "3 H W"]) -> str:
    return data_url(torchvision.io.encode_png(pixels).numpy().tobytes())
