"""One picture of several artifacts: rate against distortion, and samples side by side."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from calotype.evaluation.tokenizer import Evaluation

SHOWN = 8
"""Samples of each artifact."""


def panorama(found: Mapping[str, Evaluation]) -> Image.Image:
    """Draw it: of tokenizers, how many dB for how many bits an image on the left, and samples under
    their originals on the right; of generators samples alone.
    """
    rated = {path: each for path, each in found.items() if "rate_bits" in each.health}
    strips = _strips(found)
    figure = Figure(figsize=(6 * bool(rated) + SHOWN, 1.15 * len(strips) + 1), layout="constrained")
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
