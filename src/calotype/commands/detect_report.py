"""What was found of pictures, as a table, a page, JSON and CSV."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from calotype.commands.inspecting import Listed
from calotype.pages.detection import Judged, Shown, write_detection
from calotype.training.files import write_text, written
from calotype.uses.detection import Pictures, Rule, Tried, one_way
from calotype.uses.detection.conformal import spread

WARNING = (
    "Reconstruction alone fails one way: a network that rebuilds what is complex rebuilds what is "
    "simple too, whether it was trained on it or not. Look at the reversed direction and at other "
    "scores, and count only what stands above every control."
)
UNTRAINED = "untrained: "
"""What names of controls begin with."""
COLUMNS = ("AUROC", "reversed", "precision", "pixel AUROC", "AUPRO", "false alarms", "found")


@dataclass(frozen=True)
class Report:
    """All that was found."""

    model: str
    size: int
    rule: Rule
    files: Listed
    pictures: Pictures
    found: Mapping[str, Tried]
    remarks: Sequence[str]

    @property
    def lines(self) -> list[str]:
        """What must be known of the figures."""
        rate, held = self.rule.false_alarm_rate, len(self.pictures.held)
        low, high = spread(held, rate)
        said = [
            f"{len(self.pictures.normal)} normal pictures were learnt from, {held} held out, "
            f"{len(self.pictures.test)} judged, of {self.size} pixels a side. A picture's score is "
            f"{self.rule.said}.",
            f"Thresholds are for {rate:.1%} false alarms: what {held} held-out normals promise on "
            f"average; of such thresholds nine in ten have between {low:.1%} and {high:.1%}.",
            *self.remarks,
        ]
        if failing := one_way(self.found):
            said.append(f"One way only: {', '.join(failing)}.")
        return [*said, WARNING]

    def cells(self) -> dict[str, list[str]]:
        """By name of a score its figures, as a table has them, below `COLUMNS`."""
        return {name: _cells(each, self.pictures) for name, each in self.found.items()}

    @property
    def columns(self) -> Sequence[str]:
        """What figures there are."""
        return ("threshold", "alarms") if self.pictures.anomalous is None else COLUMNS

    def show(self) -> None:
        """Print table and remarks."""
        rows = [["", *self.columns], *([name, *cells] for name, cells in self.cells().items())]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        lines.insert(1, "|---" * len(rows[0]) + "|")
        Console().print("\n".join([*lines, "", *self.lines]), highlight=False, soft_wrap=True)

    def write(self, page: Path, shown: int) -> Path:
        """Write page, JSON and CSV."""
        write_text(page.with_suffix(".json"), json.dumps(self._told(), indent=1) + "\n")
        self._write_rows(page.with_suffix(".csv"))
        places = _chosen(self.files.test.labels, self._worst(), shown)
        judged = {name: self._judged(name, places) for name in self.found}
        rows = [Shown(_name(self.files.test.files[i]), self._label(i), self.pictures.test[i],
                      None if self.pictures.masks is None else self.pictures.masks[i])
                for i in places]  # fmt: skip
        title = f"{self.model}: what is unlike normal pictures"
        table = {"": self.columns, **self.cells()}
        write_detection(page, title, self.lines, table, judged, self.pictures.anomalous, rows)
        return page

    def _judged(self, name: str, places: Sequence[int]) -> Judged:
        each, shown = self.found[name], torch.tensor(places)
        p = each.learnt.p_values(each.values)
        maps = None if name.startswith(UNTRAINED) else each.maps(shown)
        return Judged(
            each.learnt.score.unit, each.learnt.held, each.values, each.learnt.threshold,
            each.figures.auroc, [f"{each.values[i]:.3g}, p {p[i]:.2g}" for i in places],
            [bool(each.alarms[i]) for i in places], maps,
        )  # fmt: skip

    def _told(self) -> dict[str, Any]:
        rate, held = self.rule.false_alarm_rate, len(self.pictures.held)
        scores = {
            name: {**asdict(each.figures), "reversed": each.reverse,
                   "unit": each.learnt.score.unit, "threshold": each.learnt.threshold,
                   "alarms": int(each.alarms.sum())}
            for name, each in self.found.items()
        }  # fmt: skip
        return {
            "model": self.model, "size": self.size, "normal": len(self.pictures.normal),
            "held_out": held, "judged": len(self.pictures.test), "rule": asdict(self.rule),
            "false_alarm_rate_of_nine_in_ten": spread(held, rate), "remarks": self.lines,
            "scores": scores,
        }  # fmt: skip

    def _write_rows(self, path: Path) -> None:
        names = [*self.found]
        p = {name: each.learnt.p_values(each.values) for name, each in self.found.items()}
        with written(path) as file:
            rows = csv.writer(file, lineterminator="\n")
            kinds = [f"{name}: {what}" for name in names for what in ("score", "p", "alarm")]
            rows.writerow(["picture", "label", *kinds])
            for i, picture in enumerate(self.files.test.files):
                each = [
                    value for name in names
                    for value in (f"{self.found[name].values[i]:.6g}", f"{p[name][i]:.4g}",
                                  int(self.found[name].alarms[i]))
                ]  # fmt: skip
                rows.writerow([str(picture), self._label(i), *each])

    def _label(self, place: int) -> str:
        labels = self.files.test.labels
        return "" if labels is None else labels[place]

    def _worst(self) -> list[int]:
        """Places of all pictures, first those that scores on average find the most unusual."""
        p = [each.learnt.p_values(each.values) for each in self.found.values()]
        return np.argsort(np.mean(p, axis=0), kind="stable").tolist()


def _cells(each: Tried, pictures: Pictures) -> list[str]:
    if pictures.anomalous is None:
        return [f"{each.learnt.threshold:.4g}", f"{each.alarms.sum()} of {len(each.values)}"]
    told = each.figures
    known = told.auroc, each.reverse, told.precision, told.pixel_auroc, told.aupro
    parts = [each.alarms[~pictures.anomalous], each.alarms[pictures.anomalous]]
    rates = [f"{part.mean():.1%}" if len(part) else "" for part in parts]
    return ["" if value is None else f"{value:.3f}" for value in known] + rates


def _chosen(labels: Sequence[str] | None, order: Sequence[int], count: int) -> list[int]:
    """So many of all labels in turn, of each the most unusual; anomalous ones first."""
    if labels is None:
        return [*order[:count]]
    own: dict[str, list[int]] = {}
    for place in order:
        own.setdefault(labels[place], []).append(place)
    turns = [places[turn] for turn in range(len(order)) for places in own.values()
             if turn < len(places)][:count]  # fmt: skip
    return sorted(turns, key=lambda place: (labels[place], order.index(place)))


def _name(file: Path) -> str:
    return "/".join(file.parts[-2:])
