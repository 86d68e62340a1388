"""What a run shows and measures of itself on the way."""

from collections.abc import Callable
from signal import SIGTERM
from typing import TypeVar

import torch

from calotype.training.agreement import by_main
from calotype.training.distributed import all_mean
from calotype.training.interrupt import BrokenOff, Interrupts
from calotype.training.keeping import BEST, Keeper
from calotype.training.log import Log
from calotype.training.trainer import Trainer

T = TypeVar("T")
EARLY = 50
"""Optimiser step of the first picture, or earlier if the run asks for more of them."""


def look(trainer: Trainer, log: Log, keeper: Keeper, interrupts: Interrupts) -> int:
    """Show and measure what is due at the step. Returns the signal that ended that, the same on all
    ranks or SIGTERM, or 0; of an evaluation, the run makes it when it is taken up.
    """
    run, last, seen = trainer.run, trainer.step == trainer.run.steps, True
    evaluates = trainer.step % run.evaluate_every == 0 or last
    if evaluates and not evaluate(trainer, log, keeper, interrupts):
        return interrupts.number or SIGTERM
    if trainer.step % run.log_every == 0 or last:
        log.metrics(trainer.step, trainer.means.take())
    if trainer.step % run.sample_every == 0 or last:
        warn(trainer, log)
        seen = preview(trainer, log, interrupts)
    elif trainer.step == EARLY:
        seen = preview(trainer, log, interrupts)
    trainer.looked = True
    return 0 if seen else interrupts.number or SIGTERM


def _unless_broken(trainer: Trainer, interrupts: Interrupts, see: Callable[[], T]) -> T | None:
    """What is seen with averaged weights; None: nothing, or a signal came."""

    def seen() -> T:
        if not trainer.weights.seen_by_each:
            return see()
        with interrupts.breaking():  # and not while weights are exchanged for others
            return see()

    try:
        return trainer.averaged(seen)
    except BrokenOff:
        return None


def warn(trainer: Trainer, log: Log) -> None:
    """Pass on what objectives have to say."""
    for learner in trainer.learners:
        if said := learner.objective.warning():
            log.warn(trainer.step, said)


def preview(trainer: Trainer, log: Log, interrupts: Interrupts) -> bool:
    """Save the first objective's picture of itself, by its averaged weights; none if the run is
    told to stop meanwhile. Whether it was not.
    """
    if trainer.weights.seen_by_each:  # the others, if they went on, would wait in an exchange
        return by_main(lambda: _draw(trainer, log, interrupts))
    return _draw(trainer, log, interrupts)


def _draw(trainer: Trainer, log: Log, interrupts: Interrupts) -> bool:
    objective = trainer.learners[0].objective
    if trainer.step == trainer.run.steps:  # there is no next one
        images = trainer.averaged(objective.preview)
    else:
        images = _unless_broken(trainer, interrupts, objective.preview)
        if images is None and interrupts.number and trainer.weights.seen_by_each:
            return False
    if images is None or not log.main:
        return True
    if images.isfinite().all():
        log.picture(trainer.step, images, objective.captions)
    else:  # an early one may be anything; training is told by losses
        log.warn(trainer.step, "what was drawn is not finite, and there is no picture")
    return True


def check_best(trainer: Trainer, interrupts: Interrupts) -> None:
    """See that the run's best checkpoint can be told, before any step, by one evaluation; not if
    the run is told to stop meanwhile.

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
    figures = _unless_broken(trainer, interrupts, evaluation)
    if figures is not None and best.figure not in figures:
        known = ", ".join(sorted(figures))
        raise ValueError(f"run.best.figure is {best.figure!r}: choose from {known}")


def evaluate(trainer: Trainer, log: Log, keeper: Keeper, interrupts: Interrupts) -> bool:
    """Measure the first objective on what is not trained on, by its averaged weights; keep the
    checkpoint if it is the best. Whether all ranks have measured: none was told to stop.
    """
    evaluation = trainer.learners[0].objective.evaluation
    if evaluation is None:
        return True
    # Every rank measures: all weights are equal, and nobody waits or decides alone.
    figures = _unless_broken(trainer, interrupts, evaluation)
    best, device = trainer.run.best, trainer.accelerator.device
    own = 0.0 if not (figures and best) else figures[best.figure]
    value, broken = all_mean(torch.tensor([own, float(figures is None)], device=device)).tolist()
    if broken or figures is None:
        return False
    log.figures(trainer.step, figures)
    if best and best.beats(value, trainer.best):
        trainer.best = value
        keeper.save(BEST)
    return True
