"""Lines over optimiser steps, from a run's metrics.jsonl, as SVG that a page holds."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.evaluation.glossary import GLOSSARY, glossed
from calotype.pages.curves import Curve, Curves, Point

WIDTH, HEIGHT = 320, 120
"""Of a chart, in its own units; a page scales it."""
LOGARITHMIC = {"psnr": False, "pixel": True, "denoising": True, "bits_per_token": False}
"""Figures of metrics.jsonl that a page draws before others, and whether by their logarithm."""
VALIDATION = "validation/"
BESIDE = {"psnr": "psnr_db"}
"""Figures of validation that stand in a chart of training's, where they are not called alike."""


@dataclass(frozen=True)
class Frame:
    """What the lines of a chart are drawn in: steps from the left, values from below."""

    first: int
    last: int
    lowest: float
    highest: float
    logarithmic: bool

    def line(self, points: Iterable[Point]) -> str:
        """The points of a polyline; what has no logarithm is left out."""
        lowest, highest = self._height(self.lowest), self._height(self.highest)
        return " ".join(
            f"{WIDTH * (step - self.first) / max(1, self.last - self.first):.1f},"
            f"{HEIGHT - HEIGHT * (self._height(value) - lowest) / ((highest - lowest) or 1):.1f}"
            for step, value in points
            if value > 0 or not self.logarithmic
        )

    def _height(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def charts(metrics: Path) -> list[dict[str, Any]]:
    """The most telling curves of a run that have two points or more: label, polyline, and its ends'
    figures.
    """
    curves = Curves(metrics).look()
    return [chart for name, logarithmic in LOGARITHMIC.items() if name in curves
            if (chart := _chart(name, curves[name], logarithmic))]  # fmt: skip


def _chart(name: str, curve: Curve, logarithmic: bool) -> dict[str, Any] | None:
    points = [(step, value) for step, value in curve.points if value > 0 or not logarithmic]
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    (first, before), (last, now) = points[0], points[-1]
    frame = Frame(first, last, min(values), max(values), logarithmic)
    return {
        "label": glossed(name), "meaning": GLOSSARY[name].meaning,
        "line": frame.line(points), "width": WIDTH, "height": HEIGHT, "step": last,
        "first": f"{before:.3g}", "last": f"{now:.3g}",
        "lowest": f"{frame.lowest:.3g}", "highest": f"{frame.highest:.3g}",
    }  # fmt: skip


def all_charts(curves: Mapping[str, Curve]) -> list[dict[str, Any]]:
    """Every figure of a run, validation beside training where both have it: label, meaning, lines,
    what is at the ends of both axes, and the last value of each line.
    """
    return [_both(name, lines) for name, lines in _figures(curves)]


def _figures(curves: Mapping[str, Curve]) -> Iterator[tuple[str, dict[str, Curve]]]:
    """Each figure's name and its curves; the most telling first, then as the glossary has them."""
    of_validation = {name.removeprefix(VALIDATION): curve for name, curve in curves.items()
                     if name.startswith(VALIDATION)}  # fmt: skip
    trained = {name: curve for name, curve in curves.items() if not name.startswith(VALIDATION)}
    known = [*LOGARITHMIC, *GLOSSARY]
    names = sorted(trained.keys() | of_validation.keys())
    names.sort(key=lambda name: known.index(name) if name in known else len(known))
    beside = {BESIDE[name] for name in BESIDE.keys() & trained.keys()}
    for name in names:
        other = of_validation.get(BESIDE.get(name, name))
        lines = {"training": trained.get(name), "validation": other}
        if name in trained or name not in beside:
            yield name, {of: curve for of, curve in lines.items() if curve}


def _both(name: str, lines: Mapping[str, Curve]) -> dict[str, Any]:
    every = lines.values()
    lowest, highest = min(c.lowest for c in every), max(c.highest for c in every)
    wide = lowest > 0 and highest >= 10 * lowest
    logarithmic = LOGARITHMIC.get(name, True) and wide
    frame = Frame(min(c.first[0] for c in every), max(c.last[0] for c in every), lowest, highest,
                  logarithmic)  # fmt: skip
    term = GLOSSARY.get(name)
    return {
        "name": name, "label": glossed(name), "meaning": term.meaning if term else "",
        "width": WIDTH, "height": HEIGHT, "first": frame.first, "step": frame.last,
        "lowest": lowest, "highest": highest, "logarithmic": logarithmic,
        "lines": [_line(of, frame, curve) for of, curve in lines.items()],
    }  # fmt: skip


def _line(of: str, frame: Frame, curve: Curve) -> dict[str, Any]:
    """A line as a page draws it; a point alone is drawn to itself, which leaves a dot."""
    points = frame.line(curve.points)
    alone = bool(points) and " " not in points
    shown = f"{points} {points}" if alone else points
    return {"of": of, "points": shown, "alone": alone, "last": f"{curve.last[1]:.4g}"}
