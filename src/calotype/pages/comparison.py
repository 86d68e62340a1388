"""The page, the table and the picture of several artifacts measured on the same pictures."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from calotype.evaluation.glossary import LEGEND, glossed
from calotype.evaluation.judges import Evaluation
from calotype.evaluation.report import described, flat, noted
from calotype.lazy import matplotlib
from calotype.pages.render import data_url, render
from calotype.training.files import write_text

PAGE = "comparison.html"
SHOWN = 8
"""Samples of each artifact."""


def write(folder: Path, found: dict[str, Evaluation]) -> Path:
    """Write page, table and picture of what was measured; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    each = [described(path, evaluation) for path, evaluation in found.items()]
    write_text(folder / "comparison.json", json.dumps(each, indent=1) + "\n")
    rate_and_distortion(found).save(folder / "comparison.png")
    rows, said = table(found), remarks(found)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    picture = "![what each makes of the same pictures](comparison.png)"
    write_text(folder / "comparison.md", "\n\n".join(["\n".join(lines), *said, picture]) + "\n")
    write_text(folder / PAGE, page(rows, said, folder / "comparison.png"))
    Console().print("\n".join([*lines, "", *said]), highlight=False, soft_wrap=True)
    return folder / PAGE


def table(found: dict[str, Evaluation]) -> list[list[str]]:
    """Header and rows: a figure, and its value for each artifact."""
    columns = [dict(flat(_all(evaluation))) for evaluation in found.values()]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [["figure", *found]]
    for name in names:
        cells = (
            _cell(column.get(name), each.errors.get(name)) + " *" * (name in each.notes)
            for column, each in zip(columns, found.values(), strict=True)
        )
        rows.append([glossed(name), *cells])
    return rows


def _all(evaluation: Evaluation) -> dict[str, Any]:
    drawn = {name: value for name, value in (evaluation.protocol.sampling or {}).items()
             if isinstance(value, int | float | str)}  # fmt: skip
    return {**evaluation.figures, **evaluation.health, **evaluation.speed, **drawn}


def _cell(value: Any, error: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(f"{each:g}" for each in value)
    return f"{value:.6g}" + (f" ± {error:.2g}" if error is not None else "")


def remarks(found: Mapping[str, Evaluation]) -> list[str]:
    """What stands below the table: notes on figures, how they are read, what they depend on."""
    notes = {name: note for each in found.values() for name, note in each.notes.items()}
    return [*noted(notes), LEGEND, protocol(next(iter(found.values())))]


def protocol(evaluation: Evaluation) -> str:
    """What the figures depend on, in a line."""
    how = evaluation.protocol
    lpips = ", ".join(f"{net} {digest}" for net, digest in how.lpips.items())
    parts = [f"Protocol {how.version}", f"{how.images} pictures of {how.size} pixels, {how.digest}",
             f"{how.precision} on {how.device}", f"features of {how.features}",
             f"LPIPS {lpips}" if lpips else "", f"seed {how.seed}",
             f"CLIP {how.clip}" if how.clip else "",
             f"training images: {how.training}" if how.training else ""]  # fmt: skip
    return "; ".join(part for part in parts if part) + "."


def page(rows: list[list[str]], said: list[str], picture: Path) -> str:
    """The table and the picture as one HTML file."""
    head, *body = rows
    image = data_url(picture.read_bytes())
    return render("comparison.html", head=head, rows=body, remarks=said, image=image)


def rate_and_distortion(found: Mapping[str, Evaluation]) -> Image.Image:
    """Draw it: of tokenizers, how many dB for how many bits an image on the left, and samples under
    their originals on the right; of generators samples alone.
    """
    rated = {path: each for path, each in found.items() if "rate_bits" in each.health}
    strips = _strips(found)
    figure = matplotlib.figure.Figure(
        figsize=(6 * bool(rated) + SHOWN, 1.15 * len(strips) + 1), layout="constrained"
    )
    grid = figure.add_gridspec(len(strips), 2 if rated else 1,
                               width_ratios=[5, SHOWN] if rated else None)  # fmt: skip
    if rated:
        _plane(figure.add_subplot(grid[:, 0]), rated)
    for row, (name, images) in enumerate(strips):
        axes = figure.add_subplot(grid[row, -1])
        axes.imshow(images)
        axes.set_title(name, fontsize=9, loc="left")
        axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return Image.open(buffer)


def _plane(axes, rated: Mapping[str, Evaluation]) -> None:
    rates = [each.health["rate_bits"] for each in rated.values()]
    middle = (min(rates) + max(rates)) / 2
    for path, each in rated.items():
        rate, distortion = each.health["rate_bits"], each.figures["psnr_db"]
        axes.plot(rate, distortion, "o")
        away, side = (-4, "right") if rate > middle else (4, "left")  # names stay within the axes
        axes.annotate(short(path), (rate, distortion), (away, 4), textcoords="offset points",
                      fontsize=9, ha=side)  # fmt: skip
    axes.set_xlabel("rate, bits an image")
    axes.set_ylabel("PSNR, dB")
    axes.margins(0.2)
    axes.grid(alpha=0.3)


def _strips(found: Mapping[str, Evaluation]) -> list[tuple[str, np.ndarray]]:
    """Rows of samples with their names; the originals on top of what tokenizers made of them."""
    strips = []
    for path, each in found.items():
        if each.examples is None:
            continue
        real, fake = each.examples
        if each.health and not strips:
            strips.append(("originals", _strip(real)))
        strips.append((short(path), _strip(fake)))
    return strips


def _strip(images) -> np.ndarray:
    return np.concatenate([each.permute(1, 2, 0).numpy() for each in images[:SHOWN]], 1)


def short(path: str) -> str:
    """A path's last two names."""
    return "/".join(Path(path).parts[-2:])
