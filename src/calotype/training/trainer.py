"""What a run trains, and the step that it takes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from signal import SIGTERM
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from calotype.lazy import accelerate
from calotype.training.distributed import all_mean, on_cpu
from calotype.training.ema import Average
from calotype.training.images import sent_batch
from calotype.training.learner import Learner
from calotype.training.log import Log, Means
from calotype.training.noise import seed_ambient
from calotype.training.objective import Batch, Objective
from calotype.training.precision import Name, agreed, autocast, ease, loss_scaling, settled
from calotype.training.run import Run

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
        self.run = run
        # One process may hold several runs, each with a precision of its own; processes and
        # devices, which live in PartialState, stay.
        accelerate.state.AcceleratorState._reset_state()
        self.accelerator = accelerate.Accelerator(
            # It knows no fp16 on CPUs; what is computed in what is the learners' business.
            cpu=on_cpu(), mixed_precision="no",
            gradient_accumulation_steps=run.accumulate,
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
        self.learners: list[Learner] = []
        for objective in objectives:
            twins = sum(type(p.objective) is type(objective) for p in self.learners)
            mark = f"_{twins + 1}" if twins else ""
            self.learners.append(
                Learner(objective, self.accelerator, self.precision, self.scaler, mark, run.compile)
            )
        average = None if run.ema is None else Average(self.learners[0].learnt, run.ema)
        self.average, self.means = average, Means()
        self.step = self.samples = self.updates = self.skipped = self.skipped_in_a_row = 0
        self.images = run.batch_size * run.accumulate * self.accelerator.num_processes
        self.values: dict[str, Tensor] = {}
        self.best: float | None = None

    def gradients(self, batches: Iterator[Batch]) -> None:
        """Accumulate one optimiser step's gradients."""
        seed_ambient(self.run.seed, self.step, self.accelerator.process_index)
        within, device = Means(), self.accelerator.device
        count, objectives = self.run.accumulate, [learner.objective for learner in self.learners]
        micro = (sent_batch(next(batches), device) for _ in range(count))
        if looking := [o for o in objectives if o.wants_survey(count, self.step)]:
            every = list(micro)
            with autocast(self.precision, device):
                for objective in looking:
                    objective.survey(every, self.step)
            micro = iter(every)
        for number, batch in enumerate(micro):
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
        self.step, self.samples = self.step + 1, self.samples + self.images
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
        with stance, self.average.applied() if self.average else nullcontext():
            seen = look()
        objective.train()
        return seen
