"""What a run trains, and the step that it takes."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from signal import SIGTERM
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from calotype.lazy import accelerate
from calotype.mistakes import note
from calotype.training.distributed import all_mean, alone, on_cpu
from calotype.training.ema import Average
from calotype.training.fitting import (
    Drawn,
    begun,
    check_apart,
    may_run_out,
    ran_out,
    shapes,
    smaller,
)
from calotype.training.images import sent_batch
from calotype.training.learner import Learner
from calotype.training.log import Log, Means
from calotype.training.noise import seed_ambient
from calotype.training.objective import Batch, Objective
from calotype.training.precision import Name, agreed, autocast, ease, loss_scaling, settled
from calotype.training.run import Run
from calotype.training.whole import holding

R = TypeVar("R")


class DivergedError(ValueError):
    """A run is beyond mending: it skips step after step."""


class Asked(NamedTuple):
    """What a rank asks of all at the end of a step."""

    signal: int = 0
    """It was sent one, and wants to stop; 0: it was not."""
    save: bool = False
    """It is time for a checkpoint."""


class Trainer:
    """The state of a run between two steps."""

    def __init__(self, objectives: Sequence[Objective], run: Run) -> None:
        self.run, self.division = run, begun(run)
        self.loaded = self.division
        # One process may hold several runs, each with a precision of its own; processes and
        # devices, which live in PartialState, stay.
        accelerate.state.AcceleratorState._reset_state()
        self.accelerator = accelerate.Accelerator(
            # It knows no fp16 on CPUs; what is computed in what is the learners' business.
            cpu=on_cpu(), mixed_precision="no",
            gradient_accumulation_steps=self.division.count,
            log_with=list(run.trackers) or None, project_dir=run.out,
            # Buffers are equal on all ranks because whoever changes one reduces first.
            kwargs_handlers=[accelerate.utils.DistributedDataParallelKwargs(
                broadcast_buffers=False, gradient_as_bucket_view=True
            )],
        )  # fmt: skip
        device = self.accelerator.device
        self.precision: Name = agreed(settled(run.precision, device))
        self.scaler = loss_scaling(self.precision, device)
        for objective in objectives:
            objective.train()
        self.weights = holding(self.accelerator, run.out)
        self.learners: list[Learner] = []
        for objective in objectives:
            twins = sum(p.kind is type(objective) for p in self.learners)
            mark = f"_{twins + 1}" if twins else ""
            self.learners.append(
                Learner(objective, self.accelerator, self.weights, self.precision, self.scaler,
                        mark, run.compile)
            )  # fmt: skip
        moving = self.weights.own(self.learners[0].learnt)
        average = None if run.ema is None else Average(moving, run.ema)
        self.average, self.means = average, Means()
        self.step = self.samples = self.updates = self.skipped = self.skipped_in_a_row = 0
        self.values: dict[str, Tensor] = {}
        self.fits: set[Hashable] = set()
        self.best: float | None = None
        self.looked = True
        """Whether what is due at this step has been shown and measured."""

    def gradients(self, batches: Iterator[Batch]) -> None:
        """Accumulate one optimiser step's gradients: where memory runs out from its beginning, in
        smaller micro-batches, before any weight has moved.
        """
        drawn = Drawn(batches, self.loaded.count)
        while not (self._tried(drawn) and self._accumulated(drawn)):
            self._forget()
            check_apart([learner.objective for learner in self.learners])
            self.division = smaller(self.run, self.division)
            self.accelerator.gradient_accumulation_steps = self.division.count

    def _forget(self) -> None:
        """Take back what a step has gathered so far."""
        for learner in self.learners:
            learner.objective.step_skipped()
            learner.optimizer.zero_grad()

    def _tried(self, drawn: Drawn) -> bool:
        """Whether a micro-batch fits, on every rank. Each tries by itself where a step may take
        more memory than those before: a rank that fails in a step leaves the others waiting.
        """
        apart = [isinstance(learner.module, DistributedDataParallel) for learner in self.learners]
        if not (all(apart) and may_run_out(self.accelerator.device)):
            return True
        batch = next(drawn.micro_batches(self.division.micro_batch))
        stages = tuple(learner.objective.stage(self.step) for learner in self.learners)
        kind = (shapes(batch), stages, self.updates > 0)  # the first update makes moments
        if kind in self.fits:
            return True
        failed = torch.tensor(float(not self._fits_alone(batch)), device=self.accelerator.device)
        self._forget()
        if all_mean(failed).item():
            return False
        self.fits.add(kind)
        return True

    def _fits_alone(self, batch: Batch) -> bool:
        try:
            with alone():
                sent = sent_batch(batch, self.accelerator.device)
                for learner in self.learners:
                    learner.backward(sent, self.step, last=False)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            return False
        return True

    def _accumulated(self, drawn: Drawn) -> bool:
        """Whether the gradients of all micro-batches are there."""
        try:
            self._accumulate(drawn)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            if self.accelerator.num_processes > 1:
                less = self.division.halved()
                note(error, f"choose --run.micro-batch {less.micro_batch if less else 1} or less")
                raise
            return False
        return True

    def _accumulate(self, drawn: Drawn) -> None:
        seed_ambient(self.run.seed, self.step, self.accelerator.process_index)
        within, device, count = Means(), self.accelerator.device, self.division.count
        objectives = [learner.objective for learner in self.learners]
        pieces = drawn.micro_batches(self.division.micro_batch)
        micro = (sent_batch(piece, device) for piece in pieces)
        if looking := [o for o in objectives if o.wants_survey(count, self.step)]:
            every = list(micro)
            self.weights.gather()
            with autocast(self.precision, device):
                for objective in looking:
                    objective.survey(every, self.step)
            micro = iter(every)
        for number, batch in enumerate(micro):
            self.weights.gather()
            for learner in self.learners:
                losses = learner.backward(batch, self.step, number == count - 1)
                within.add(learner.measured(losses))
        self.values = {n: within.sums[n] / within.counts[n] for n in within.sums}

    def update(self, log: Log, asked: Asked) -> Asked:
        """Move every learner, or none if a term is not finite; return what any rank asks."""
        learners = [learner for learner in self.learners if learner.played]
        norms = [learner.norm(self.run.clip) for learner in learners]
        # One small exchange and one wait for the device per step, for all three questions.
        health = (
            torch.stack([*self.values.values(), *norms])
            .sum()
            .nan_to_num(torch.inf, torch.inf, torch.inf)
        )
        questions = torch.stack([health, *(health.new_full((), each) for each in asked)])
        total, signals, save = all_mean(questions).tolist()
        if total == float("inf"):
            self._skip(log)
        else:
            self._move(learners)
            self.means.add({p.gradient: n for p, n in zip(learners, norms, strict=True)})
        for learner in self.learners:
            learner.optimizer.zero_grad()
        self.step, self.samples = self.step + 1, self.samples + self.run.batch_size
        self.looked = False
        return Asked(asked.signal or (SIGTERM if signals else 0), bool(save))

    def _move(self, learners: Sequence[Learner]) -> None:
        self.scaler.update()
        rows = [learner.update(self.step, self.run.steps) for learner in learners]
        self.updates, self.skipped_in_a_row = self.updates + 1, 0
        if self.average:
            self.average.step()
            self.average.restart(list(chain.from_iterable(rows)))
        self.means.add(self.values)

    def _skip(self, log: Log) -> None:
        eased = ease(self.scaler)
        # While a scale is being found steps overflow that are none the worse with a lower one.
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + (not eased)
        for learner in self.learners:
            learner.objective.step_skipped()
        names = sorted(self.values)
        values = all_mean(torch.stack([self.values[n] for n in names]))
        bad = [n for n, v in zip(names, values.tolist(), strict=True) if not abs(v) < torch.inf]
        what = f"{', '.join(bad)} not finite" if bad else "a gradient is not finite"
        lower = f"; losses are scaled by {self.scaler.get_scale():g} from here on" if eased else ""
        log.skip(self.step, f"{what}; step skipped ({self.skipped} so far){lower}")
        if self.skipped_in_a_row >= self.run.patience:
            raise DivergedError(
                f"{what} for {self.skipped_in_a_row} steps in a row: begin again elsewhere with a "
                "lower optimizer.lr, or in fp32"
            )

    def averaged(self, look: Callable[[], R]) -> R:
        """What is seen of the first objective in evaluation, with its averaged weights."""
        objective = self.learners[0].objective
        objective.eval()
        # What is compiled is compiled for training's batches alone.
        stance = torch.compiler.set_stance("force_eager") if self.run.compile else nullcontext()
        averaged = self.average.applied() if self.average else nullcontext()
        try:
            with stance, averaged, self.weights.seen():
                return look()
        finally:
            objective.train()
