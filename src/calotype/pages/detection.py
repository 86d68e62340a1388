"""The page of what is unlike normal pictures: figures, curves, pictures under heat maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from calotype.data.reading.transforms import eight_bits
from calotype.lazy import matplotlib, scipy, sklearn, torchvision
from calotype.pages.render import data_url, render
from calotype.training.files import write_text
from calotype.training.images import scaled, visible

WIDTH, HEIGHT, BINS = 320, 120, 24
"""Of a chart, in its own units, and bars of a histogram."""
COLOURS = {"held out": "#999", "normal": "#1558b0", "anomalous": "#c22", "judged": "#1558b0"}
OVER = 0.65
"""How much of a heat map is seen over its picture."""


@dataclass(frozen=True)
class Shown:
    """A picture of the page."""

    name: str
    label: str
    picture: UInt8[Tensor, "c H W"]
    mask: Bool[np.ndarray, "H W"] | None
    """Where it is anomalous; None: it is not known."""


@dataclass(frozen=True)
class Judged:
    """What a score said: of pictures in general, and of those that are shown."""

    unit: str
    held: Float[np.ndarray, " m"]
    """Scores of held-out normal pictures."""
    values: Float[np.ndarray, " n"]
    """Of those that were judged."""
    threshold: float
    auroc: float | None
    said: Sequence[str]
    """Of each that is shown, in words."""
    alarms: Sequence[bool]
    """Likewise."""
    maps: Float[Tensor, "k H W"] | None
    """Likewise; None: none are shown of this score."""


def write_detection(
    path: Path, title: str, lines: Sequence[str], table: Mapping[str, Sequence[str]],
    judged: Mapping[str, Judged], anomalous: Bool[np.ndarray, " n"] | None, shown: Sequence[Shown],
) -> None:  # fmt: skip
    """Write the page to one HTML file, in one step.

    Args:
        path: The file.
        title: In a line.
        lines: What must be known of the figures.
        table: By name of a score its figures; their names by "".
        judged: By name of a score what it said.
        anomalous: Which of those that were judged are; None: it is not known.
        shown: Pictures that are shown.
    """
    seen = torch.stack([each.picture for each in shown])
    real = eight_bits(visible(scaled(seen)))
    heats = {name: _overlaid(each.maps, real) for name, each in judged.items()
             if each.maps is not None}  # fmt: skip
    rows = [_row(place, each, real, heats, judged) for place, each in enumerate(shown)]
    charts = [_chart(name, each, anomalous) for name, each in judged.items()]
    columns, cells = table[""], {name: row for name, row in table.items() if name}
    write_text(path, render(
        "detection.html", title=title, lines=lines, columns=columns, cells=cells, charts=charts,
        rows=rows, width=WIDTH, height=HEIGHT,
    ))  # fmt: skip


def _row(
    place: int, shown: Shown, real: UInt8[Tensor, "k 3 H W"],
    heats: Mapping[str, UInt8[Tensor, "k 3 H W"]], judged: Mapping[str, Judged],
) -> dict[str, Any]:  # fmt: skip
    tiles = [{"what": "picture", "source": _source(real[place]), "alarm": False}]
    if shown.mask is not None:
        rimmed = _source(_rimmed(real[place], shown.mask))
        tiles.append({"what": "where it is", "source": rimmed, "alarm": False})
    tiles += [{"what": f"{name}: {judged[name].said[place]}", "source": _source(heat[place]),
               "alarm": judged[name].alarms[place]} for name, heat in heats.items()]  # fmt: skip
    return {"name": shown.name, "label": shown.label, "tiles": tiles}


def _overlaid(
    maps: Float[Tensor, "k H W"], real: UInt8[Tensor, "k 3 H W"]
) -> UInt8[Tensor, "k 3 H W"]:
    """Heat over grey, from the lowest of all that are shown to nearly the highest."""
    values = maps.numpy()
    low, high = float(values.min()), float(np.quantile(values, 0.998))
    parts = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
    colours = matplotlib.colormaps["inferno"](parts)[..., :3] * 255
    grey = real.float().mean(1).numpy()[..., None]
    mixed = OVER * colours + (1 - OVER) * grey
    return torch.from_numpy(mixed.round().astype(np.uint8)).permute(0, 3, 1, 2)


def _rimmed(real: UInt8[Tensor, "3 H W"], mask: Bool[np.ndarray, "H W"]) -> UInt8[Tensor, "3 H W"]:
    """The picture, and a red line around what is anomalous."""
    rim = torch.from_numpy(scipy.ndimage.binary_dilation(mask) & ~mask)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    return torch.where(rim, red, real)


def _chart(
    name: str, each: Judged, anomalous: Bool[np.ndarray, " n"] | None
) -> dict[str, Any]:  # fmt: skip
    groups = {"held out": each.held}
    if anomalous is None:
        groups["judged"] = each.values
    else:
        groups |= {"normal": each.values[~anomalous], "anomalous": each.values[anomalous]}
    every = np.concatenate([*groups.values(), [each.threshold]])
    low, high = float(every.min()), float(np.quantile(every, 0.98))
    high = max(high, each.threshold, low + 1e-9)
    edges = np.linspace(low, high, BINS + 1)
    bars = [{"of": of, "colour": COLOURS[of], "points": _steps(values, edges)}
            for of, values in groups.items() if len(values)]  # fmt: skip
    return {
        "name": name, "unit": each.unit, "low": f"{low:.3g}", "high": f"{high:.3g}",
        "at": f"{WIDTH * (each.threshold - low) / (high - low):.1f}", "bars": bars,
        "threshold": f"{each.threshold:.3g}", "roc": _roc(each, anomalous), "auroc": each.auroc,
    }  # fmt: skip


def _steps(values: Float[np.ndarray, " n"], edges: Float[np.ndarray, " m"]) -> str:
    """The outline of a histogram, what is beyond its end in the last bar."""
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    heights = HEIGHT * (1 - counts / counts.max())
    step, points = WIDTH / BINS, [(0.0, float(HEIGHT))]
    for i, height in enumerate(heights):
        points += [(i * step, height), ((i + 1) * step, height)]
    return _line([*points, (float(WIDTH), float(HEIGHT))])


def _roc(each: Judged, anomalous: Bool[np.ndarray, " n"] | None) -> str | None:
    if anomalous is None or each.auroc is None:
        return None
    wrong, right, _ = sklearn.metrics.roc_curve(anomalous, each.values)
    return _line([(HEIGHT * x, HEIGHT * (1 - y)) for x, y in zip(wrong, right, strict=True)])


def _line(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _source(pixels: UInt8[Tensor, "3 H W"]) -> str:
    return data_url(torchvision.io.encode_png(pixels.contiguous()).numpy().tobytes())
