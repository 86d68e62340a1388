"""A run: how long, how fast, how often, and the folder it fills."""

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from calotype.lazy import accelerate
from calotype.training import checkpoint
from calotype.training.files import write_text
from calotype.training.optimizer import AdamW
from calotype.training.precision import Name, Precision
from calotype.training.products import Products


@dataclass(frozen=True)
class Best:
    """Which weights are exported: those whose figure was best, and not the last ones."""

    figure: str = "psnr_db"
    """One of those in metrics.jsonl under validation/."""
    wanted: Literal["highest", "lowest"] | None = None
    """Which value of it is best. None: of psnr_db, psnr_alpha_db and ssim the
    highest, of others the lowest."""

    def beats(self, value: float, before: float | None) -> bool:
        """Whether a value is better than the best before; None: there is none. What is no number
        beats nothing.
        """
        if not math.isfinite(value):
            return False
        if before is None:
            return True
        wanted = self.wanted or ("highest" if self.figure in HIGHER_IS_BETTER else "lowest")
        return value > before if wanted == "highest" else value < before


HIGHER_IS_BETTER = ("psnr_db", "psnr_alpha_db", "ssim")
"""Figures; of all others a lower one is taken to be better."""


@dataclass(frozen=True)
class Run:
    """How long, how fast, how often. Means the same for every objective.

    The folder it fills: `recipe.json`, `metrics.jsonl`, `history.jsonl`, `index.html`, `samples/`,
    `checkpoints/step-N/` and `checkpoints/best/`, what trackers keep there, and, when the recipe
    has ended, `model/`.
    """

    out: Path = Path("runs/default")
    """Folder of the run."""
    steps: int = 100_000
    """Optimiser steps."""
    batch_size: int = 32
    """Samples per process and micro-batch."""
    accumulate: int = 1
    """Micro-batches per optimiser step. When a run is resumed, processes * batch_size * accumulate
    stays what it was."""
    clip: float | None = 1.0
    """Largest norm of an objective's whole gradient; None: only measured."""
    ema: float | None = 0.999
    """Decay of the exponential moving average that is exported, per optimiser step, after
    diffusers' warm-up min(decay, (1 + s) / (10 + s)); None: export the weights as they are."""
    precision: Precision = "auto"
    """Of the computation; weights, losses and averages are float32 in any. auto: bf16 where the
    device multiplies it in hardware, else fp32; a run that is resumed keeps what it began in. In
    fp16 losses are scaled, so that small gradients do not vanish."""
    products: Products = "exact"
    """Of float32 numbers on GPUs: tf32 is faster and keeps ten bits of each factor."""
    compile: bool = False
    """Compile the networks by torch.compile before the first step, which then takes minutes; on a
    GPU convolutions are also laid out channels last. Pays for long runs on GPUs."""
    seed: int = 0
    workers: int = 0
    """Processes that read and transform samples, of a stream from the Hub or a URL threads of one;
    0: the training process does.
    """
    log_every: int = 50
    """Optimiser steps between lines of metrics.jsonl; each is the mean over its interval."""
    save_every: int = 1000
    """Optimiser steps between checkpoints."""
    save_minutes: float | None = None
    """Minutes after which a checkpoint is written besides, if there was none; None: steps alone
    tell."""
    sample_every: int = 1000
    """Optimiser steps between pictures in samples/; the first is there after 50."""
    evaluate_every: int = 1000
    """Optimiser steps between evaluations on what is not trained on, where the recipe has such."""
    best: Best | None = None
    """Keep the checkpoint of the best evaluation, checkpoints/best, and export it; None: export
    the last weights."""
    keep: int = 2
    """Checkpoints to keep, newest first, besides the best."""
    patience: int = 50
    """Steps in a row that may be skipped for a term that is not finite before the run stops."""
    resume: bool = False
    """Continue from the newest complete checkpoint in `out`, or begin if there is none."""
    requeue: bool = False
    """Resume, and when SLURM stops the job (SIGTERM) save and have it requeued: the same command
    goes on whenever it is started again."""
    overwrite: bool = False
    """Begin anew in `out`, and delete the run that is there: its checkpoints, model and logs."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers by name: tensorboard, wandb, trackio, ... They are told the recipe, and
    these three the pictures too."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulate", "log_every", "save_every",
                    "sample_every", "evaluate_every", "keep", "patience")  # fmt: skip
        for name in positive:
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"run.{name} is {value}: it must be at least 1")
        for name in ("seed", "workers"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"run.{name} is {value}: it must be 0 or more")
        if self.save_minutes is not None and not self.save_minutes > 0:
            raise ValueError(f"run.save_minutes is {self.save_minutes}: it must be positive")
        if self.requeue:
            object.__setattr__(self, "resume", True)
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"run.ema is {self.ema}: a decay lies in [0, 1), or None for no EMA")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"run.clip is {self.clip}: it must be positive, or None to not clip")
        if self.resume and self.overwrite:
            raise ValueError("run.resume continues a run, run.overwrite deletes it: choose one")
        _check_trackers(self.trackers)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.out / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the recipe leaves what it trained."""
        return self.out / "model"

    def trained(self) -> str:
        """Where it stands when its steps are done, and how it goes on."""
        again = "" if self.resume else " with --run.resume"
        return f"{self.out}: all steps are done; the same command{again} goes on behind them"


PLACES = {
    "run.out", "out", "data.path", "validation.path", "tokenizer", "cache", "model.start",
    "model.path", "transformer.path", "text.path", "pipeline", "teacher", "student.path",
    "perceptual.backbone_weights",
}  # fmt: skip
"""Fields of recipes that say where something lies."""
MAY_CHANGE = {
    *(f"run.{name}" for name in ("resume", "requeue", "overwrite", "precision", "products",
                                 "compile", "workers", "trackers", "keep", "steps", "patience",
                                 "log_every", "save_every", "save_minutes", "sample_every",
                                 "evaluate_every", "batch_size", "accumulate")),
    "workers", "model.discriminator", "model.bottleneck.initial_std", "model.bottleneck.orthogonal",
    "examples", "measure", "prompts",
}  # fmt: skip
"""Fields of recipes that may differ when a run is resumed: what is trained stays the same, and how
it began is over. Data, a cache, a tokenizer and what is begun from may have moved, and are compared
by fingerprint.
The samples of a step are compared by `fit`; `run.steps` stays where the learning rate depends on
it."""


FINGERPRINTED_LATER = ("inputs.data", "inputs.validation", "inputs.rows")
"""Inputs of which versions before took no fingerprint."""


def begin(
    run: Run, recipe: Any, inputs: Mapping[str, str] | None = None, free: Sequence[str] = ()
) -> None:
    """Open the run's folder and record the recipe; refuse to mix two runs in one folder. A run of
    which no weights have been saved yet has nothing to lose, and gives way to any other.

    Args:
        run: Whose folder it is.
        recipe: The dataclass that describes the run.
        inputs: Fingerprints of what the run is made from, by name.
        free: Fields that may be changed on resume, besides those that always may.

    Raises:
        ValueError: the folder is no run's and not empty, or it holds work already and neither
            `resume` nor `overwrite` is on, or the recipe or the inputs differ from those that
            began.
    """
    file = run.out / "recipe.json"
    settings = {**describe(recipe), "inputs": dict(inputs or {})}
    if not file.exists():
        _check_empty(run.out)
    elif run.overwrite:
        _delete(run)
    elif _holds_work(run):
        _compare(_began(file, recipe), settings, run, free)
    run.out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(settings, indent=1) + "\n")


def begun_in(run: Run) -> Name | None:
    """The precision of the run that is to be resumed; None: it is to begin."""
    file = run.out / "recipe.json"
    if not (run.resume and file.exists() and _holds_work(run)):
        return None
    was = json.loads(file.read_text()).get("run", {}).get("precision", "auto")
    return None if was == "auto" else was


def has_ended(run: Run, recipe: Any) -> bool:
    """Whether the recipe has ended in the run's folder.

    Raises:
        ValueError: what has ended or begun there is of another recipe.
    """
    file = run.out / "recipe.json"
    if not (run.model.exists() or (file.exists() and _holds_work(run))):
        return False
    began = _began(file, recipe)
    _compare(began, {**describe(recipe), "inputs": began["inputs"]}, run, ())
    if not run.model.exists():
        return False
    # What is still to come may be cut otherwise, but not what is over.
    steps, samples = began["run"]["steps"], _samples(**began["run"])
    for name, was, now in (
        ("run.steps", steps, run.steps),
        ("run.batch_size * run.accumulate", samples, run.batch_size * run.accumulate),
        *_of_precision(began, run),
    ):
        if was != now:
            raise ValueError(
                f"{name} was {was} in {run.out}, which has ended, and is {now}: set it back, or "
                "choose another folder"
            )
    return True


def _of_precision(began: Mapping[str, Any], run: Run) -> list[tuple[str, str, str]]:
    """What it was and is asked to be; nothing where any will do."""
    was = began["run"]["precision"]
    return [] if run.precision == "auto" else [("run.precision", was, run.precision)]


def _samples(batch_size: int, accumulate: int, **rest: Any) -> int:
    return batch_size * accumulate


def describe(value: Any) -> Any:
    """A recipe as JSON; each dataclass says its name under "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def restore(kinds: Any, value: Any) -> Any:
    """What `describe` described: a dataclass among `kinds`, a type or a union of some.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(value, dict):
        found = [kind for kind in (get_args(kinds) or (kinds,))
                 if getattr(kind, "__name__", None) == value.get("type")]  # fmt: skip
        if not found:
            raise ValueError(f"no type {value.get('type')!r} here: another version may know it")
        hints = get_type_hints(found[0])
        fields = {name: restore(hints[name], v) for name, v in value.items() if name != "type"}
        return found[0](**fields)
    return tuple(value) if isinstance(value, list) else value


def _check_trackers(names: Sequence[str]) -> None:
    # Accelerate refuses what it does not know only when everything is built, and silently does
    # without what is not installed.
    for name in names:
        if name not in accelerate.tracking.LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(accelerate.tracking.LOGGER_TYPE_TO_CLASS))
            raise ValueError(f"run.trackers: no tracker {name!r}: choose from {known}")
        if name in accelerate.utils.LoggerType.list() and name not in map(
            str, accelerate.tracking.get_available_trackers()
        ):
            raise ValueError(f"run.trackers: {name} is not installed: pip install {name}")


def _check_empty(folder: Path) -> None:
    # Whatever stands there under a name that a run uses would be replaced. Hidden files are the
    # system's, or of a start that was cut off.
    there = [path.name for path in folder.glob("*") if not path.name.startswith(".")]
    if there:
        raise ValueError(f"{folder} holds {min(there)} and no run: choose a new folder")


def _holds_work(run: Run) -> bool:
    return next(run.out.rglob("*.safetensors"), None) is not None


def _delete(run: Run) -> None:
    """Delete what a run leaves in its folder, and nothing else that may be there.

    Raises:
        ValueError: what is there is something else, such as a cache.
    """
    recipe = json.loads((run.out / "recipe.json").read_text())
    if "run" not in recipe:
        raise ValueError(
            f"{run.out} holds the work of a {recipe['type']} and no run: choose another --run.out"
        )
    checkpoint.sweep(run.out)
    for folder in (run.model, run.checkpoints, run.out / "samples"):
        shutil.rmtree(folder, ignore_errors=True)
    names = ("metrics.jsonl", "history.jsonl", "index.html", "tracker.json")
    # Whatever else is in a folder of this name is not tensorboard's: sources of ours, perhaps.
    events = (run.out / "calotype").glob("events.out.tfevents.*")
    for file in [*(run.out / name for name in names), *events]:
        file.unlink(missing_ok=True)


def _began(file: Path, recipe: Any) -> dict[str, Any]:
    """What a run was begun with; what recipes had no field for then, it had by default."""
    return _completed(json.loads(file.read_text()), recipe)


ONCE = {
    ("CacheRecipe", "precision"): "fp32",
    ("Transform", "colour"): {"type": "AsStored"},
}
"""What versions did that had no field for it, where that is not what it is by default now."""
CALLED_BEFORE = {"cache": "latents"}
"""Fields of recipes, and what they were called when some runs began."""


def _completed(began: dict[str, Any], value: Any) -> dict[str, Any]:
    for field in dataclasses.fields(value):
        now, before = getattr(value, field.name), CALLED_BEFORE.get(field.name)
        if before in began and field.name not in began:
            began[field.name] = began.pop(before)
        if (once := ONCE.get((type(value).__name__, field.name))) and field.name not in began:
            began[field.name] = once
        elif field.name not in began:
            if field.default is not dataclasses.MISSING:
                began[field.name] = describe(field.default)
            elif field.default_factory is not dataclasses.MISSING:
                began[field.name] = describe(field.default_factory())
        elif dataclasses.is_dataclass(now) and isinstance(began[field.name], dict):
            began[field.name] = _completed(began[field.name], now)
    return began


def _compare(
    began: Mapping[str, Any], settings: Mapping[str, Any], run: Run, free: Sequence[str]
) -> None:
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
    """What may differ, but not so that steps were of another size or more of them taken."""
    there = checkpoint.complete(run.checkpoints)
    taken = int(there[-1].name.removeprefix("step-")) if there else 0
    for name, was, now in _differences(began, settings):
        if name in ("run.batch_size", "run.accumulate") or (name == "run.steps" and now < taken):
            yield name, was


def _may_change(name: str, run: Run, free: Sequence[str]) -> bool:
    # What was best on other pictures says nothing about these.
    told = () if run.best else ("validation", "validate")
    first = name.split(".")[0]
    moved = is_place(name) and first != "validation" and name != "text.path"
    return moved or name in MAY_CHANGE or first in {"sampling", *told, *free}


def is_place(name: str) -> bool:
    """Whether a field of recipes says where something lies; of sources within a source too."""
    first, *inside = name.split(".")
    return name in PLACES or (first in ("data", "validation") and inside[-1:] == ["path"])


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
