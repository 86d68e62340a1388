"""The one training loop, and what it needs: optimisers, EMA, checkpoints, logs."""

from calotype.training.interrupt import Interrupted
from calotype.training.loop import fit
from calotype.training.objective import Batch, Losses, Objective
from calotype.training.optimizer import AdamW
from calotype.training.run import Run, begin

__all__ = ["AdamW", "Batch", "Interrupted", "Losses", "Objective", "Run", "begin", "fit"]
