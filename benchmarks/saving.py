"""What a checkpoint costs the training that goes on beside it, and what kills do to it.

    python benchmarks/saving.py                 the longest pause, beside writing in its place
    python benchmarks/saving.py --kills 100     and so many kill -9 at random instants, none lost

A model of 25 million numbers: with its optimiser's state and its average, 400 MB a checkpoint.
"""

import argparse
import importlib
import json
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from calotype.training import AdamW, Batch, Losses, Objective, Run, checkpoint, fit
from calotype.training.background import Writer

PROCESSES = multiprocessing.get_context("fork")
HEARD, TELLS = PROCESSES.Pipe(duplex=False)
"""Through which a process tells that it asks for its first batch."""
WIDTH, DEPTH = 1024, 24
SMALL = 32
"""Width of the model that is killed."""


class Layers(Objective):
    """Keeps numbers as they are."""

    def __init__(self, width: int) -> None:
        super().__init__(AdamW(1e-4))
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(DEPTH)))

    def forward(self, batch: Batch, step: int) -> Losses:
        """Squares of what has changed."""
        return {"error": (self.layers(batch["x"]) - batch["x"]).square().mean()}


class Numbers:
    """A loader of batches that are functions of their position."""

    def __init__(self, width: int, batch_size: int) -> None:
        self.width, self.batch_size = width, batch_size
        self.seen: list[float] = []

    def batches(
        self,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
    ) -> Iterator[Batch]:
        """From a position on, noting when each was asked for."""
        while True:
            self.seen.append(time.perf_counter())
            if len(self.seen) == 1:
                TELLS.send("training")
            generator = torch.Generator().manual_seed(position)
            x = torch.randn(self.batch_size, self.width, generator=generator)
            yield {"x": x, "key": list(range(position, position + self.batch_size))}
            position += self.batch_size


def train(out: Path, width: int, **changes) -> list[float]:
    """Train, and return how long each step took, in seconds."""
    torch.manual_seed(0)
    settings = {"steps": 40, "batch_size": 64, "log_every": 1000, "sample_every": 1000,
                "save_every": 10, "precision": "fp32"}  # fmt: skip
    run = Run(out, **{**settings, **changes})
    numbers = Numbers(width, run.batch_size)
    fit([Layers(width)], numbers, run)
    return [b - a for a, b in zip(numbers.seen, numbers.seen[1:], strict=False)]


def in_its_place(self: Writer, write) -> None:
    """As it was: training waits until all is on disk."""
    write()


def pauses(root: Path) -> dict[str, float]:
    """The longest step beyond the usual one, either way."""
    found = {}
    for name in ("in its place", "beside the training"):
        waits = name == "in its place"
        with patch.object(Writer, "start", in_its_place) if waits else nullcontext():
            steps = train(root / name.replace(" ", "-"), WIDTH)
        usual = sorted(steps)[len(steps) // 2]
        found[name] = max(steps) - usual
        print(f"{name}: a step {usual:.3f} s, the longest pause {found[name]:.3f} s")
        shutil.rmtree(root / name.replace(" ", "-"))
    return found


def killed(root: Path, kills: int) -> None:
    """Kill a run at random instants of its training until it has ended, and compare it with one
    that was not.
    """
    began, chance, out = time.monotonic(), random.Random(0), root / "killed"
    settings = {"steps": 200, "save_every": 1, "batch_size": 4}
    # Loaded once for all that are forked, which then train at once. What is forked from must not.
    for name in ("accelerate.tracking", "diffusers.training_utils", "diffusers.optimization"):
        importlib.import_module(name)
    whole = PROCESSES.Process(target=train, args=(root / "whole", SMALL), kwargs=settings)
    whole.start()
    HEARD.recv()
    whole.join()
    done = writing = newest = 0
    while done < kills:
        process = PROCESSES.Process(
            target=train, args=(out, SMALL), kwargs={**settings, "resume": True}
        )
        process.start()
        assert HEARD.poll(120), "it does not begin"
        HEARD.recv()
        process.join(chance.uniform(0, 1))
        if process.is_alive():
            process.kill()
            done += 1
        process.join()
        writing += any((out / "checkpoints").glob(".step-*"))
        before, newest = newest, after(out / "checkpoints")
        assert newest >= before, f"step {before} is lost"
        if newest == settings["steps"] and done < kills:
            shutil.rmtree(out)  # it came to its end: another one is killed
            newest = 0
    train(out, SMALL, **settings, resume=True)
    for file in sorted((root / "whole/checkpoints/step-200").iterdir()):
        again = out / "checkpoints/step-200" / file.name
        assert file.read_bytes() == again.read_bytes(), file.name
    print(f"{done} kills in {time.monotonic() - began:.0f} s, {writing} of them while a checkpoint "
          "was being written or deleted; none lost: the last is the uninterrupted run's, bit for "
          "bit")  # fmt: skip


def after(checkpoints: Path) -> int:
    """The step of the newest checkpoint, each of which is whole; 0: there is none."""
    steps = [0]
    for folder in checkpoint.complete(checkpoints):
        steps.append(int(folder.name.removeprefix("step-")))
        assert checkpoint.read(folder)[1]["step"] == steps[-1]
    return steps[-1]


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--no-pauses", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            killed(Path(folder), options.kills)
        if not options.no_pauses:
            found = pauses(Path(folder))
            print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
