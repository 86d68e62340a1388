"""A run: how long, how fast, how often."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calotype.lazy import accelerate
from calotype.training.precision import Precision
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
    `checkpoints/step-N/` and `checkpoints/best/`, `micro-batch.json` where memory ran out, what
    trackers keep there, and, when the recipe has ended, `model/`.
    """

    out: Path = Path("runs/default")
    """Folder of the run."""
    steps: int = 100_000
    """Optimiser steps."""
    batch_size: int = 32
    """Samples of an optimiser step, of all processes and micro-batches together. When a run is
    resumed, it stays what it was."""
    micro_batch: int | None = None
    """Most samples that a process takes at once; its share of the batch goes in equal parts. None:
    all of its share. Where memory runs out they are halved until they fit, and a run that is
    resumed begins with what it found."""
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
        positive = ("steps", "batch_size", "log_every", "save_every",
                    "sample_every", "evaluate_every", "keep", "patience")  # fmt: skip
        for name in positive:
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"run.{name} is {value}: it must be at least 1")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"run.micro_batch is {self.micro_batch}: it must be at least 1")
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
