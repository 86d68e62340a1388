"""The page of restored pictures: what was seen, what became of it, the truth where it is known, and
classical methods beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from calotype.lazy import torchvision
from calotype.pages.render import data_url, render
from calotype.pages.worst import GAIN
from calotype.training.files import write_text

Shown = UInt8[Tensor, "3 H W"]


@dataclass(frozen=True)
class Restored:
    """A picture, and all that was made of it."""

    name: str
    made: Mapping[str, Shown]
    """By name: what was seen and what was restored, then what classical methods made."""
    truth: Shown | None
    """None: it is not known."""
    psnr: Mapping[str, float]
    """In dB, by the names of `made`; empty without the truth."""


def write_restored(
    path: Path, title: str, lines: Sequence[str], table: Sequence[Sequence[str]],
    shown: Sequence[Restored],
) -> None:  # fmt: skip
    """Write the page to one HTML file, in one step.

    Args:
        path: The file.
        title: Of the page.
        lines: What was done, by what.
        table: Header and rows of figures; empty: there are none.
        shown: Pictures, in the order of the page.
    """
    rows = [_row(each) for each in shown]
    write_text(path, render("restoration.html", title=title, lines=lines, table=table, rows=rows,
                            gain=GAIN))  # fmt: skip


def _row(each: Restored) -> dict[str, Any]:
    (seen, restored), beside = [*each.made.items()][:2], [*each.made.items()][2:]
    truth = {}
    if each.truth is not None:
        apart = (each.truth.int() - restored[1].int()).abs().mul(GAIN).clamp(max=255).byte()
        truth = {"truth": each.truth, "difference": apart}
    pictures = {**dict([seen, restored]), **truth, **dict(beside)}
    return {"name": each.name, "pictures": [
        {"what": what, "source": data_url(torchvision.io.encode_png(pixels).numpy().tobytes()),
         "psnr": f"{each.psnr[what]:.2f} dB" if what in each.psnr else ""}
        for what, pixels in pictures.items()
    ]}  # fmt: skip
