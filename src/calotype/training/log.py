"""What a run says while it trains: metrics.jsonl, history.jsonl, trackers, how far it is, sample
sheets.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.lazy import accelerate, torchvision
from calotype.training.checkpoint import Tensors
from calotype.training.distributed import all_mean
from calotype.training.files import write_text
from calotype.training.history import History
from calotype.training.images import visible
from calotype.training.precision import Name
from calotype.training.progress import Told
from calotype.training.run import Run
from calotype.training.sheet import LEGIBLE, draw_sheet
from calotype.training.trackers import Trackers

SHOWN_EVERY = 10.0
"""Seconds between two writings of history.jsonl, after which whoever watches is told too."""

Watch = Callable[[bool], None]
"""Hears, on the main process, that the files of a run's folder are others now. With True it is the
first time or, perhaps, the last."""


class Means:
    """Means of named scalars over an interval, summed on the device: no wait for it per step."""

    def __init__(self) -> None:
        self.sums: Tensors = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take one value of each name."""
        for name, value in values.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means over the interval and all ranks; begin a new interval."""
        names = sorted(self.sums)
        if not names:
            return {}
        means = torch.stack([self.sums[n] / self.counts[n] for n in names])
        values = all_mean(means).tolist()
        self.sums, self.counts = {}, {}
        return dict(zip(names, values, strict=True))


class Log:
    """Writes on the main process; a context that tells how far the run is while it is entered.

    Args:
        run: Whose it is.
        accelerator: Of the run.
        first: Optimiser steps that were done before.
        images: Images of a step, of all processes.
        precision: What it computes in.
        watch: Who else is to hear.
    """

    def __init__(
        self, run: Run, accelerator: "accelerate.Accelerator", first: int, images: int,
        precision: Name, watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self.run, self.first, self.watch = run, first, watch
        self.precision: Name = precision
        self.main = accelerator.is_main_process
        self.told = Told(run.out.name, run.steps, first, images)
        self.history: History | None = None
        self._due, self._said = 0.0, ""
        if self.main:
            run.out.mkdir(parents=True, exist_ok=True)
            _cut(run.out / "metrics.jsonl", first)
        self.trackers = Trackers(run, accelerator)

    def __enter__(self) -> "Log":
        if self.main:
            self.history = History(self.run.out, self.precision, self.first)
        self.told.__enter__()
        self._show(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.told.__exit__(kind, error, trace)
        self._show(True)
        self.trackers.finish()

    def advance(self, step: int) -> None:
        """Count one optimiser step."""
        self.told.reach(step)
        if time.monotonic() >= self._due:
            self._show()

    def _show(self, at_once: bool = False) -> None:
        self._due = time.monotonic() + SHOWN_EVERY
        if self.history is None:
            return
        try:
            self.history.write(self.told.done, self.told.standing.speed)
            if self.watch:
                self.watch(at_once)
        except Exception as error:  # told once; training needs none of it
            if (what := f"what is shown of the run could not be written: {error!r}") != self._said:
                self.say(what)
            self._said = what

    def warn(self, step: int, said: str) -> None:
        """Tell the person who watches what should be known at once, and keep it."""
        self.say(f"step {step}: {said}")
        if self.history:
            self.history.warn(step, said)

    def skip(self, step: int, said: str) -> None:
        """Tell of a step that is skipped, and count it."""
        self.warn(step, said)
        if self.history:
            self.history.start.skipped += 1

    def forget(self, step: int) -> None:
        """Take back what was written from a step on, which is looked at again."""
        if self.main:
            _cut(self.run.out / "metrics.jsonl", step - 1)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line of metrics.jsonl. Speed goes to people, not there: a resumed run's file
        equals the uninterrupted one's.
        """
        if self.main:
            self._write(step, values)
        self.trackers.figures(step, {**values, "images_per_second": self.told.standing.speed})
        self.told.note = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.told.mention()

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Write what an evaluation found as a line of its own, its names under validation/."""
        named = {f"validation/{name}": value for name, value in values.items()}
        if self.main:
            self._write(step, named)
            found = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.say(f"step {step}, not trained on: {found}")
        self.trackers.figures(step, named)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        with (self.run.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def say(self, line: str) -> None:
        """Tell the person who watches."""
        self.told.say(line)

    def picture(
        self, step: int, images: Float[Tensor, "n c H W"], captions: Sequence[str] = ()
    ) -> None:
        """Save a grid of images in [-1, 1] under samples/, and a sheet besides where one could not
        see them else, or they have captions.
        """
        folder, side = self.run.out / "samples", images.shape[-1]
        folder.mkdir(exist_ok=True)
        shown = folder / f"{step:07d}.png"
        save_grid(images, shown)
        if captions or side < LEGIBLE:
            larger, shown = side * -(-LEGIBLE // side), folder / f"{step:07d}-sheet.png"
            draw_sheet(images, captions, side=larger).save(shown)
        self.trackers.picture(step, shown)


def save_grid(images: Float[Tensor, "n c H W"], path: Path, columns: int = 8) -> None:
    """Save images in [-1, 1] as one PNG, alpha over a checkerboard."""
    torchvision.utils.save_image(
        visible(images), path, nrow=columns, normalize=True, value_range=(-1, 1)
    )


def _cut(file: Path, step: int) -> None:
    # A run killed after a checkpoint has logged steps that it will take again.
    if file.exists():
        lines = file.read_text().splitlines(keepends=True)
        write_text(file, "".join(line for line in lines if _step(line) <= step))


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the kill cut this line in two
        return sys.maxsize
