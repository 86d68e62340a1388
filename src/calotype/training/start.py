"""How a run starts: in which precision, and in a folder of its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from calotype.training.agreement import agree, by_main, versions
from calotype.training.begun import begin, begun_in
from calotype.training.description import describe, is_place
from calotype.training.distributed import own_device, processes
from calotype.training.division import Division
from calotype.training.fitting import remembered
from calotype.training.launcher import asks_for_shares, check_shares
from calotype.training.lock import held
from calotype.training.lost import together
from calotype.training.portable import flat
from calotype.training.precision import (
    Chosen,
    Name,
    chosen,
    described,
    warn_of_emulation,
)
from calotype.training.progress import say
from calotype.training.requeue import requeued
from calotype.training.run import Run


@contextmanager
def started(
    run: Run, recipe: Any, inputs: Callable[[], Mapping[str, str]], found: str
) -> Iterator[Run]:
    """Begin a run or take it up, and say what it will do; on every rank. The main one chooses the
    precision, and its choice stands in `recipe.json`. While it is entered no other run may use its
    folder, and what ends one rank ends all.

    Args:
        run: The recipe's.
        recipe: The dataclass that describes it, with a field `run`.
        inputs: Gives fingerprints of what it is made from, by name; each rank asks, of what it
            sees.
        found: What there is to train and to train on, in words.

    Yields:
        The run with a precision by name.

    Raises:
        LostError: another rank is lost.
        ValueError: on all ranks, they have other recipes, data or versions; the folder is in use or
            cannot be used, as `begin` says; or the device lacks the precision.
    """
    with requeued(run), together(), ExitStack() as kept:
        check_shares(run.precision, run.compile)
        known = inputs()
        agree({**_said(recipe), **{f"inputs.{name}": known[name] for name in known}})

        def begun() -> Name:
            kept.enter_context(held(run.out))
            return _begin(run, recipe, known, found)

        yield replace(run, precision=by_main(begun))


def _begin(run: Run, recipe: Any, inputs: Mapping[str, str], found: str) -> Name:
    device = own_device()
    precision = chosen(run.precision, begun_in(run), device, run.out)
    settled = replace(run, precision=precision.name)
    begin(settled, replace(recipe, run=settled), inputs)
    _say(settled, precision, found)
    if precision.name == run.precision:
        warn_of_emulation(precision.name, device)
    return precision.name


def _said(recipe: Any) -> dict[str, Any]:
    """What a rank knows of recipe and versions; where things lie may be another place for each."""
    fields = {name: value for name, value in flat(describe(recipe)) if not is_place(name)}
    return {**fields, "FSDP": asks_for_shares(), **versions()}


def _say(run: Run, precision: Chosen, found: str) -> None:
    division, device = Division.of(remembered(run), processes().num_processes), own_device()
    parts = (f"{division.processes} processes", f"{division.count} micro-batches")
    shares = [part for part in parts if not part.startswith("1 ")]
    threads = torch.get_num_threads()
    some = "1 thread" if threads == 1 else f"{threads} threads"
    cores = f", {some}" if device.type == "cpu" else ""
    say(found)
    say(
        " of ".join([f"{run.steps} steps of {run.batch_size} samples", *shares])
        + f", into {run.out}"
    )
    say(f"on {described(device)}{cores}, in {precision.name}: {precision.reason}")


def count(module: torch.nn.Module) -> str:
    """How many parameters there are and how many of them are learnt, in words."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    every, learnt = sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)
    some = "" if learnt == every else f", {_millions(learnt)} of them learnt"
    return f"{_millions(every)} parameters{some}"


def _millions(number: int) -> str:
    return f"{number / 1e6:.3g} million"
