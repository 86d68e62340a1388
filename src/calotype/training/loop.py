"""The one training loop. It knows nothing of images, latents or codes."""

import time
from collections.abc import Sequence
from signal import SIGTERM
from typing import NoReturn

import torch

from calotype.mistakes import noted
from calotype.training.distributed import all_mean
from calotype.training.interrupt import Interrupted, Interrupts
from calotype.training.keeping import Keeper
from calotype.training.log import Log, Watch
from calotype.training.looking import check_best, look
from calotype.training.lost import of_all
from calotype.training.objective import Batches, Objective
from calotype.training.products import products
from calotype.training.run import Run
from calotype.training.trainer import Asked, Trainer


def fit(
    objectives: Sequence[Objective], loader: Batches, run: Run, watch: Watch | None = None
) -> None:
    """Minimise each objective, in turn on each micro-batch, and leave its trained weights in it.
    `watch` hears, on the main process, when there may be something new in the run's folder.

    Usually there is one; an adversary is a second, with its own optimiser. Afterwards the first
    one's parameters are their moving average if the run keeps one. Counters count optimiser
    steps. Processes and accumulation are Accelerate's. An error on the way has a note that says
    where the run stands and how it goes on.

    Raises:
        Interrupted: on SIGTERM or Ctrl-C, after a checkpoint has been saved.
        DivergedError: a term was not finite for `run.patience` steps in a row.
        ValueError: the checkpoint to resume from is another run's, or the best one cannot be told.
    """
    with products(run.products):
        trainer = Trainer(objectives, run)
        try:
            _fit(trainer, Keeper(trainer, loader), watch)
        finally:
            for learner in trainer.learners:
                learner.compiled.undo()


def _fit(trainer: Trainer, keeper: Keeper, watch: Watch | None) -> None:
    run = trainer.run
    keeper.restore()
    log = Log(run, trainer.accelerator, trainer.step, run.batch_size, trainer.precision, watch)
    with noted(keeper.where), Interrupts(log.main) as interrupts, log, keeper.writer:
        check_best(trainer, interrupts)
        batches = keeper.loader.batches(
            position=trainer.samples, rank=trainer.accelerator.process_index,
            world=trainer.accelerator.num_processes, micro_batch=trainer.loaded.micro_batch,
        )  # fmt: skip
        signal = 0
        if not trainer.looked:
            log.forget(trainer.step)  # if it was killed over that
            signal = look(trainer, log, keeper, interrupts)
        while trainer.step < run.steps and not signal:
            trainer.gradients(batches)
            asked = trainer.update(log, Asked(interrupts.number, keeper.is_late()))
            log.advance(trainer.step)
            # Whoever is told to stop saves at once, and looks when it is taken up.
            signal = asked.signal or look(trainer, log, keeper, interrupts)
            if keeper.is_due(asked.save) or signal:
                keeper.save()
        # It may have come after the last step's question.
        if signal := signal or _of_any_rank(interrupts.number, trainer.accelerator.device):
            _stop(keeper, log, signal)
    keeper.finish()


def _stop(keeper: Keeper, log: Log, signal: int) -> NoReturn:
    """Wait for the checkpoint, and say so: whoever sends a signal may wait for seconds only."""
    began, trainer = time.monotonic(), keeper.trainer
    keeper.written()
    again = "the same command" if trainer.run.resume else "--run.resume"
    log.say(
        f"stopped at step {trainer.step}, saved {time.monotonic() - began:.1f} s later; {again} "
        "continues from there"
    )
    raise of_all(Interrupted(signal, trainer.step))


def _of_any_rank(signal: int, device: torch.device) -> int:
    """The signal sent to this rank, or SIGTERM if another alone was sent one, or 0."""
    signals = all_mean(torch.tensor(float(signal), device=device)).item()
    return signal or (SIGTERM if signals else 0)
