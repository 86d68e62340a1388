"""The one training loop, and what it needs: optimisers, EMA, checkpoints, logs."""

from calotype.training.begun import begin, has_ended
from calotype.training.interrupt import Interrupted
from calotype.training.loop import fit
from calotype.training.objective import Batch, Losses, Objective
from calotype.training.optimizer import AdamW
from calotype.training.run import Best, Run
from calotype.training.trainer import DivergedError

__all__ = [
    "AdamW",
    "Batch",
    "Best",
    "DivergedError",
    "Interrupted",
    "Losses",
    "Objective",
    "Run",
    "begin",
    "fit",
    "has_ended",
]
