"""What became of pictures: files, a table where the truth is known, and a page."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from calotype.commands.damaged import Given, Image
from calotype.data.reading.transforms import eight_bits
from calotype.pages.restoration import Restored, write_restored
from calotype.pipelines import picture
from calotype.tokenizers import psnr
from calotype.tokenizers.terms.base import Term
from calotype.training.files import write_bytes, write_text
from calotype.training.images import visible
from calotype.uses.restoration.baselines import as_seen, classical
from calotype.uses.restoration.comparing import Compared, compared

PAGE, FIGURES, LIST = "restored.html", "restored.json", "restored.txt"
"""The last names the pictures that were written, one a line, from before the first is."""
OWN = "restored"
COLUMNS = {"psnr_db": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "lpips_alex": ("LPIPS alex", 3),
           "lpips_vgg": ("LPIPS vgg", 3), "psnr_alpha_db": ("PSNR of alpha, dB", 2)}  # fmt: skip
"""Figures as a table heads them, and their decimals."""
Pair = tuple[Given, Float[Tensor, "_ _ _ _"]]
"""A picture, and what was restored of it; each of a shape of its own."""
Perceptual = Callable[[int, dict[str, str]], Iterable[tuple[str, Term]]]
"""LPIPS for a side of so many pixels, by backbone; it notes which is left out, and why."""


@dataclass(frozen=True)
class Shown:
    """What is shown, and where."""

    out: Path
    """The folder."""
    baselines: bool
    """Whether classical methods are beside."""
    most: int
    """Pictures on the page."""
    how: Mapping[str, Any]
    """What was done, by what, as JSON."""

    @property
    def title(self) -> str:
        """In words."""
        told = {name: value for name, value in self.how["task"].items() if value is not None}
        kind = told.pop("type")
        return ", ".join([kind, *(f"{name} {value}" for name, value in told.items())])


class Files:
    """Names in a folder, none of which is given twice. Before the first picture is written, what an
    earlier run wrote there is removed, whether it was cut or ended: of two runs pictures, page and
    figures are never mixed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._taken = folder, set[str]()

    def save(self, name: str, image: Float[Tensor, "c H W"]) -> None:
        """Write a picture, called as that which it is of."""
        if not self._taken:
            self._clear()
        of_row = re.fullmatch(r".* row \d+ \((.+)\)", name)  # of a table, which names its picture
        stem = Path(of_row[1] if of_row else name).stem or "picture"
        numbered = (f"{stem}-{n}" for n in range(2, len(self._taken) + 3))
        free = next(each for each in (stem, *numbered) if each not in self._taken)
        self._taken.add(free)
        held = BytesIO()
        picture(image).save(held, "PNG")
        with (self.folder / LIST).open("a") as names:
            names.write(f"{free}.png\n")
        write_bytes(self.folder / f"{free}.png", held.getvalue())

    def _clear(self) -> None:
        there = self.folder / LIST
        for name in there.read_text().split("\n") if there.is_file() else ():
            if name == Path(name).name and name.endswith(".png"):
                (self.folder / name).unlink(missing_ok=True)
                (self.folder / f".{name}.partial").unlink(missing_ok=True)  # it was killed then
        for name in (PAGE, FIGURES):
            (self.folder / name).unlink(missing_ok=True)
        write_text(there, "")


def is_own(folder: Path) -> bool:
    """Whether a run wrote there, to its end or not, and another may."""
    return any((folder / name).exists() for name in (LIST, FIGURES))


def tell(shown: Shown, found: Sequence[Pair], perceptual: Perceptual) -> Path:
    """Compare, print, and write figures and page; returns the page.

    Args:
        shown: What of it is shown, and where.
        found: Pictures, and what was restored of each.
        perceptual: Where LPIPS comes from.
    """
    given, restored = zip(*found, strict=True)
    truth = [each.truth for each in given if each.truth is not None]
    measurements, seen = [each.measurement for each in given], [each.seen for each in given]
    methods = [as_seen(measurements, seen)]
    if shown.baselines:
        methods += classical(measurements, seen, truth or None)
    made = {methods[0].name: methods[0].images, OWN: restored,
            **{method.name: method.images for method in methods[1:]}}  # fmt: skip
    figures, missing = dict[str, Compared](), dict[str, str]()
    if truth:
        smallest = min(min(image.shape[-2:]) for image in truth)
        figures = compared(truth, made, dict(perceptual(smallest, missing)))
    table = rows_of(figures)
    if table:
        _print(table, f"{shown.title}: {len(truth)} pictures")
    lines = [f"left out: {name}, because {why}" for name, why in missing.items()]
    for line in lines:
        print(line)
    pictures = [_on_page(each, {name: images[i] for name, images in made.items()})
                for i, each in enumerate(given[: shown.most])]  # fmt: skip
    by = f"{shown.how['model']}, way {shown.how['way']['type'].lower()}, {len(given)} pictures."
    write_restored(shown.out / PAGE, f"Restored: {shown.title}", [by, *lines], table, pictures)
    told = {**shown.how, "pictures": len(given), "left_out": missing,
            "figures": {name: each.figures for name, each in figures.items()}}  # fmt: skip
    write_text(shown.out / FIGURES, json.dumps(told, indent=1) + "\n")
    return shown.out / PAGE


def rows_of(figures: Mapping[str, Compared]) -> list[list[str]]:
    """Header and rows of a table, means and their standard errors; none of no figures."""
    if not figures:
        return []
    names = [name for name in COLUMNS if name in next(iter(figures.values())).values]
    rows = [["", *(COLUMNS[name][0] for name in names), "PSNR of all, dB"]]
    for way, each in figures.items():
        cells = (f"{each.mean(name):.{COLUMNS[name][1]}f} ± {each.error(name):.1g}"
                 for name in names)  # fmt: skip
        rows.append([way, *cells, f"{each.pooled_psnr_db:.2f}"])
    return rows


def _print(rows: Sequence[Sequence[str]], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right" if column else "left")
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)


def _on_page(given: Given, made: Mapping[str, Image]) -> Restored:
    truth = given.truth
    quality = {} if truth is None else {
        name: float(psnr(image.cpu(), truth.cpu())) for name, image in made.items()
    }  # fmt: skip
    return Restored(given.name, {name: _levels(image) for name, image in made.items()},
                    None if truth is None else _levels(truth), quality)  # fmt: skip


def _levels(image: Image) -> UInt8[Tensor, "3 H W"]:
    return eight_bits(visible(image.cpu()))[0]
