"""How a recipe may differ from the one that a run was begun with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calotype.training import checkpoint
from calotype.training.description import is_place
from calotype.training.optimizer import AdamW
from calotype.training.run import Run

MAY_CHANGE = {
    *(f"run.{name}" for name in ("resume", "requeue", "overwrite", "precision", "products",
                                 "compile", "workers", "trackers", "keep", "steps", "patience",
                                 "log_every", "save_every", "save_minutes", "sample_every",
                                 "evaluate_every", "micro_batch")),
    "workers", "model.discriminator", "model.bottleneck.initial_std", "model.bottleneck.orthogonal",
    "examples", "measure", "prompts",
}  # fmt: skip
"""Fields of recipes that may differ when a run is resumed: what is trained stays the same, and how
it began is over. Data, a cache, a tokenizer and what is begun from may have moved, and are compared
by fingerprint. `run.steps` stays where the learning rate depends on it."""


FINGERPRINTED_LATER = ("inputs.data", "inputs.validation", "inputs.rows")
"""Inputs of which versions before took no fingerprint."""


def compare(
    began: Mapping[str, Any], settings: Mapping[str, Any], run: Run, free: Sequence[str]
) -> None:
    """See that a run may go on by a recipe.

    Raises:
        ValueError: it differs where it may not, or `run.resume` is off.
    """
    refused = list(_refused(began, settings, run, free))
    if not run.resume:
        flags = {name: was for name, was, *_ in refused if not name.startswith("inputs.")}
        flags |= _counted(began, settings, run)
        kept = [f"--{name.replace('_', '-')} {was}" for name, was in [*flags.items()][:3]]
        kept += ["..."] * (len(flags) > 3)
        again = f" (as it was begun: {', '.join(kept)})" if kept else ""
        raise ValueError(
            f"{run.out} already holds a run: pass --run.resume to continue it{again}, "
            "--run.overwrite to delete it and begin anew, or another --run.out"
        )
    # A cache has no flag for it: it is encoded in minutes.
    anew = "begin anew with --run.overwrite" if "run" in settings else "delete this one"
    for name, was, now, why in refused:
        if name.startswith("inputs."):
            what = name.removeprefix("inputs.")
            raise ValueError(
                f"{run.out} was begun with {what} {was}, and now it is {now}:"
                " give it the same again, or choose another folder for what is new"
            )
        raise ValueError(
            f"{name} was {was} when {run.out} began and is {now}{why}: "
            f"set it back to resume, choose another folder, or {anew}"
        )


def _refused(
    began: Mapping[str, Any], settings: Mapping[str, Any], run: Run, free: Sequence[str]
) -> Iterator[tuple[str, Any, Any, str]]:
    """What may not differ and does: its name, what it was and is, and why, if that is not plain."""
    for name, was, now in _differences(began, settings):
        if name in FINGERPRINTED_LATER and was is None:
            continue
        scheduled = name == "run.steps" and _has_schedule(settings)
        if scheduled or not _may_change(name, run, free):
            yield name, was, now, ", and the learning rate is scheduled by it" if scheduled else ""


def _counted(
    began: Mapping[str, Any], settings: Mapping[str, Any], run: Run
) -> Iterator[tuple[str, Any]]:
    """What may differ, but not so that more steps were taken."""
    there = checkpoint.complete(run.checkpoints)
    taken = int(there[-1].name.removeprefix("step-")) if there else 0
    for name, was, now in _differences(began, settings):
        if name == "run.steps" and now < taken:
            yield name, was


def _may_change(name: str, run: Run, free: Sequence[str]) -> bool:
    # What was best on other pictures says nothing about these.
    told = () if run.best else ("validation", "validate")
    first = name.split(".")[0]
    moved = is_place(name) and first != "validation" and name != "text.path"
    return moved or name in MAY_CHANGE or first in {"sampling", *told, *free}


def _has_schedule(settings: Any) -> bool:
    """Whether a learning rate depends on the run's length."""
    if not isinstance(settings, dict):
        return False
    own = (
        settings.get("type") == AdamW.__name__
        and settings["schedule"] != "constant"
        and settings["cosine_steps"] is None
    )
    return own or any(map(_has_schedule, settings.values()))


def _differences(was: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            below = f"{name}.{key}" if name else key
            yield from _differences(was.get(key), now.get(key), below)
    elif was != now:
        yield name, was, now
