"""What a run shows and measures of itself on the way."""

import torch

from calotype.training.distributed import all_mean
from calotype.training.keeping import BEST, Keeper
from calotype.training.log import Log
from calotype.training.trainer import Trainer


def warn(trainer: Trainer, log: Log) -> None:
    """Pass on what objectives have to say."""
    for learner in trainer.learners:
        if said := learner.objective.warning():
            log.warn(trainer.step, said)


def preview(trainer: Trainer, log: Log) -> None:
    """Save the first objective's picture of itself, by its averaged weights."""
    objective = trainer.learners[0].objective
    if not trainer.weights.writes:
        return
    images = trainer.averaged(objective.preview)
    if images is None or not log.main:
        return
    if not images.isfinite().all():  # an early one may be anything; training is told by losses
        log.warn(trainer.step, "what was drawn is not finite, and there is no picture")
        return
    log.picture(trainer.step, images, objective.captions)


def check_best(trainer: Trainer) -> None:
    """See that the run's best checkpoint can be told, before any step, by one evaluation.

    Raises:
        ValueError: there is no such figure, or nothing to measure it on.
    """
    if not (best := trainer.run.best):
        return
    evaluation = trainer.learners[0].objective.evaluation
    if evaluation is None:
        raise ValueError(
            "run.best is told by what is not trained on: give a validation, or choose run.best:none"
        )
    figures = trainer.averaged(evaluation)
    if best.figure not in figures:
        known = ", ".join(sorted(figures))
        raise ValueError(f"run.best.figure is {best.figure!r}: choose from {known}")


def evaluate(trainer: Trainer, log: Log, keeper: Keeper) -> None:
    """Measure the first objective on what is not trained on, by its averaged weights; keep the
    checkpoint if it is the best.
    """
    evaluation = trainer.learners[0].objective.evaluation
    if evaluation is None:
        return
    # Every rank measures: all weights are equal, and nobody waits or decides alone.
    figures = trainer.averaged(evaluation)
    log.figures(trainer.step, figures)
    if not (best := trainer.run.best):
        return
    value = all_mean(torch.tensor(figures[best.figure], device=trainer.accelerator.device)).item()
    if best.beats(value, trainer.best):
        trainer.best = value
        keeper.save(BEST)
