"""Micro-batches that fit into memory: found by trial, and remembered in the run's folder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from calotype.lazy import accelerate
from calotype.training.agreement import by_main
from calotype.training.distributed import own_device, processes
from calotype.training.division import Division
from calotype.training.files import write_text
from calotype.training.objective import Batch, Objective
from calotype.training.precision import described
from calotype.training.progress import say
from calotype.training.run import Run

FOUND = "micro-batch.json"
"""In a run's folder: the samples that fit, on which device, and how many were asked for."""


def begun(run: Run) -> Division:
    """How a run shares its batch when it starts; the main process knows what fitted before.

    Raises:
        ValueError: the processes do not divide the batch.
    """
    return Division.of(by_main(lambda: remembered(run)), processes().num_processes)


def remembered(run: Run) -> Run:
    """A run that is resumed, with the micro-batch that its folder says to fit, if it asks for the
    same as then on the same device.
    """
    file = run.out / FOUND
    if not (run.resume and file.exists()):
        return run
    known = json.loads(file.read_text())
    same = (known["asked"], known["device"]) == (run.micro_batch, described(own_device()))
    return replace(run, micro_batch=known["samples"]) if same else run


def smaller(run: Run, division: Division) -> Division:
    """The next division to try when a step of this one has run out of memory; said and remembered.

    Raises:
        ValueError: there is none.
    """
    found = division.halved()
    if found is None:
        raise ValueError(
            "a step runs out of memory with one sample at a time: choose smaller pictures or "
            "networks, gradient checkpointing where the recipe has it, or a device with more memory"
        )
    accelerate.utils.memory.clear_device_cache(garbage_collection=True)
    if processes().is_main_process:
        known = {"samples": found.micro_batch, "asked": run.micro_batch,
                 "device": described(own_device())}  # fmt: skip
        run.out.mkdir(parents=True, exist_ok=True)
        write_text(run.out / FOUND, json.dumps(known) + "\n")
    say(
        f"{division.micro_batch} samples at once do not fit into memory: going on with "
        f"{found.micro_batch}, {found.count} times a step"
    )
    return found


def check_apart(objectives: Sequence[Objective]) -> None:
    """See that a step can be taken in smaller parts.

    Raises:
        ValueError: one compares its samples with one another.
    """
    if any(objective.compares for objective in objectives):
        raise ValueError(
            "a step runs out of memory, and its samples are compared with one another, so that it "
            "cannot be taken in parts: choose a smaller run.batch_size, or more processes"
        )


def ran_out(error: BaseException) -> bool:
    """Whether a device had not the memory that was asked of it."""
    known = accelerate.utils.memory.should_reduce_batch_size
    return isinstance(error, torch.OutOfMemoryError) or known(error)  # type: ignore[arg-type]


def may_run_out(device: torch.device) -> bool:
    """Whether a device says when it has no more memory; of CPUs the system ends the process."""
    return device.type != "cpu"


class Drawn:
    """A step's batches, as they come from a loader, in micro-batches: once more if the first trial
    of them failed.

    Args:
        batches: Of the loader.
        count: Batches of it in a step.
    """

    def __init__(self, batches: Iterator[Batch], count: int) -> None:
        self.batches, self.count = batches, count
        self.had: list[Batch] = []

    def micro_batches(self, size: int) -> Iterator[Batch]:
        """All of the step's, of so many samples each; the loader is asked when one is needed."""
        for place in range(self.count):
            if place == len(self.had):
                self.had.append(next(self.batches))
            yield from parts(self.had[place], size)


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch in parts of so many samples."""
    total = len(batch["key"])
    if total == size:
        yield batch
        return
    for first in range(0, total, size):
        chosen = slice(first, first + size)
        yield {name: _cut(value, chosen, total) for name, value in batch.items()}


def _cut(value: Any, chosen: slice, total: int) -> Any:
    """What belongs to samples is cut; all else is of every part."""
    several = isinstance(value, list | tuple | Tensor) and len(value) == total
    return value[chosen] if several else value


def shapes(batch: Batch) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Of its tensors."""
    tensors = ((name, value) for name, value in batch.items() if isinstance(value, Tensor))
    return tuple(sorted((name, tuple(value.shape)) for name, value in tensors))
