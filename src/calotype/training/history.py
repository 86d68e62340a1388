"""What became of each start of a run: history.jsonl, a line for each, rewritten while it trains."""

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from calotype import __version__
from calotype.training.distributed import own_device, processes
from calotype.training.energy import meter
from calotype.training.files import write_text
from calotype.training.precision import Name, described

HISTORY = "history.jsonl"
"""In a run's folder. No part of what a resumed run has in common with an uninterrupted one."""
MOST_WARNINGS = 100
"""Of a start that are kept, the last ones."""


@dataclass
class Start:
    """What one start of a run's training came to so far: a line of history.jsonl."""

    began: str
    """When, in ISO 8601, UTC."""
    device: str
    """What it trains on, in words; one of them, if it has several processes."""
    processes: int
    precision: Name
    versions: dict[str, str]
    """Of calotype, torch and diffusers."""
    first: int
    """Optimiser steps that were done before."""
    last: int
    """Optimiser steps that are done. Where a kill lost some, a later start begins at fewer."""
    seconds: float = 0.0
    """It has trained for, drawing samples and saving included."""
    images_per_second: float = 0.0
    """Training images that all processes take in; 0: not known yet."""
    warnings: list[tuple[int, str]] = field(default_factory=list)
    """What was said, and at which step; the last ones, if there are very many."""
    skipped: int = 0
    """Steps of this start that moved nothing, because a term or a gradient was not finite."""
    energy_joules: float | None = None
    """What the processes' GPUs have drawn, or, without them, the processors, all else on these
    included; None: it cannot be read."""


class History:
    """Keeps the line of a start that begins now; of the main process.

    Those of before stay, unless nothing of what they trained is gone on with.
    """

    def __init__(self, folder: Path, precision: Name, first: int) -> None:
        self.file = folder / HISTORY
        self.before = read(folder) if first else []
        self.start = Start(
            datetime.now(timezone.utc).isoformat(timespec="seconds"), described(own_device()),
            processes().num_processes, precision,
            {"calotype": __version__, "torch": str(torch.__version__),
             "diffusers": version("diffusers")},
            first, first,
        )  # fmt: skip
        self._began, self._meter = time.monotonic(), meter()

    def warn(self, step: int, said: str) -> None:
        """Keep what was said."""
        self.start.warnings = [*self.start.warnings, (step, said)][-MOST_WARNINGS:]

    def write(self, step: int, images_per_second: float) -> None:
        """Write down how far it is, in place of what stood there."""
        start = self.start
        start.last, start.seconds = step, round(time.monotonic() - self._began, 3)
        start.images_per_second = round(images_per_second, 3)
        start.energy_joules = self._meter and round(self._meter.joules(), 3)
        lines = [*self.before, asdict(start)]
        write_text(self.file, "".join(json.dumps(line) + "\n" for line in lines))


def read(folder: Path) -> list[dict[str, Any]]:
    """The starts of a run, oldest first; none, if its training never began, or by a version before
    there was a history.
    """
    file = folder / HISTORY
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
