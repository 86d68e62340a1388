"""What a run says while it trains: metrics.jsonl, trackers, a progress bar, sample grids."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from calotype.lazy import accelerate, torchvision
from calotype.training.checkpoint import Tensors, write_text
from calotype.training.distributed import all_mean
from calotype.training.run import Run


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
    """Writes on the main process; a context that shows a progress bar while it is entered."""

    def __init__(
        self, run: Run, accelerator: "accelerate.Accelerator", first: int, images: int
    ) -> None:
        self.run, self.accelerator, self.images = run, accelerator, images
        self.main = accelerator.is_main_process
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn(run.out.name), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} img/s, left"), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console, disable=not (self.main and self.console.is_terminal),
        )  # fmt: skip
        self.task = self.bar.add_task("", total=run.steps, completed=first, speed=0.0, note="")
        self.began, self.first = time.monotonic(), first
        if self.main:
            run.out.mkdir(parents=True, exist_ok=True)
            _cut(run.out / "metrics.jsonl", first)
        if run.trackers:
            accelerator.init_trackers("calotype")

    def __enter__(self) -> "Log":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.bar.stop()
        # Not `end_training`: it parts the ranks too, who have yet to export.
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def advance(self, step: int) -> None:
        """Count one optimiser step."""
        self.bar.update(self.task, completed=step, speed=self.speed(step))

    def speed(self, step: int) -> float:
        """Images per second of all ranks since this process began."""
        return (step - self.first) * self.images / (time.monotonic() - self.began)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line of metrics.jsonl. Speed goes to people, not there: a resumed run's file
        equals the uninterrupted one's.
        """
        if self.main:
            self._write(step, values)
        if self.run.trackers:
            self.accelerator.log({**values, "images_per_second": self.speed(step)}, step)
        note = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.bar.update(self.task, note=note)
        if not self.console.is_terminal:
            self.say(f"{self.run.out.name} {step}/{self.run.steps} "
                     f"{self.speed(step):.0f} img/s, {self._left(step)} left  {note}")  # fmt: skip

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Write what an evaluation found as a line of its own, its names under validation/."""
        named = {f"validation/{name}": value for name, value in values.items()}
        if self.main:
            self._write(step, named)
            found = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.say(f"step {step}, not trained on: {found}")
        if self.run.trackers:
            self.accelerator.log(named, step)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        with (self.run.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def say(self, line: str) -> None:
        """Tell the person who watches."""
        if self.main:
            self.console.print(line, highlight=False, soft_wrap=True)

    def picture(self, step: int, images: Float[Tensor, "n 3 H W"]) -> None:
        """Save a grid of images in [-1, 1] under samples/."""
        folder = self.run.out / "samples"
        folder.mkdir(exist_ok=True)
        save_grid(images, folder / f"{step:07d}.png")

    def _left(self, step: int) -> str:
        each = (time.monotonic() - self.began) / max(1, step - self.first)
        seconds = round(each * (self.run.steps - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def save_grid(images: Float[Tensor, "n 3 H W"], path: Path, columns: int = 8) -> None:
    """Save images in [-1, 1] as one PNG."""
    torchvision.utils.save_image(
        images.float().clamp(-1, 1), path, nrow=columns, normalize=True, value_range=(-1, 1)
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
