"""Lines over optimiser steps, from a run's metrics.jsonl, as SVG that a page holds."""

import json
import math
from pathlib import Path
from typing import Any

from calotype.evaluation.glossary import GLOSSARY, glossed

WIDTH, HEIGHT = 320, 120
"""Of a chart, in its own units; a page scales it."""


LOGARITHMIC = {"psnr": False, "pixel": True, "denoising": True, "bits_per_token": False}
"""Figures of metrics.jsonl that a page draws, and whether by their logarithm."""


def charts(metrics: Path) -> list[dict[str, Any]]:
    """The curves of a run that have two points or more: label, polyline, and its ends' figures."""
    rows = read_rows(metrics)
    return [chart for name in LOGARITHMIC if (chart := _chart(name, rows))]


def read_rows(metrics: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none, if there is no such file."""
    if not metrics.exists():
        return []
    rows = []
    for line in metrics.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # a line that is just being written
            continue
    return rows


def _chart(name: str, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    points = [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    if LOGARITHMIC[name]:
        points = [(step, math.log10(value)) for step, value in points if value > 0]
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    lowest, highest = min(values), max(values)
    first, last = points[0][0], points[-1][0]
    line = " ".join(
        f"{WIDTH * (step - first) / max(1, last - first):.1f},"
        f"{HEIGHT - HEIGHT * (value - lowest) / ((highest - lowest) or 1):.1f}"
        for step, value in points
    )
    read = (lambda value: 10**value) if LOGARITHMIC[name] else float
    return {
        "label": glossed(name), "meaning": GLOSSARY[name].meaning,
        "line": line, "width": WIDTH, "height": HEIGHT, "step": last,
        "first": f"{read(values[0]):.3g}", "last": f"{read(values[-1]):.3g}",
        "lowest": f"{read(lowest):.3g}", "highest": f"{read(highest):.3g}",
    }  # fmt: skip
