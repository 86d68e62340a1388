"""The one training loop. It knows nothing of images, latents or codes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from signal import SIGTERM
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from calotype.lazy import accelerate
from calotype.mistakes import noted
from calotype.training import checkpoint
from calotype.training.agreement import by_main, of_main
from calotype.training.background import Writer
from calotype.training.checkpoint import Found, Tensors
from calotype.training.distributed import all_gather, all_mean, on_cpu
from calotype.training.ema import Average
from calotype.training.images import sent_batch
from calotype.training.interrupt import Interrupted, Interrupts
from calotype.training.learner import Learner
from calotype.training.log import Log, Means, Watch
from calotype.training.noise import seed_ambient
from calotype.training.objective import Batch, Batches, Learning, Objective
from calotype.training.precision import Name, agreed, autocast, ease, loss_scaling, settled
from calotype.training.products import products
from calotype.training.progress import say
from calotype.training.requeue import requeue
from calotype.training.run import Run

R = TypeVar("R")
BEST = "best"
"""Name of the best checkpoint."""
EARLY = 50
"""Optimiser step of the first picture, or earlier if the run asks for more of them."""


class DivergedError(ValueError):
    """A run is beyond mending: it skips step after step."""


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
        trainer = _Trainer(objectives, run, loader)
        try:
            _fit(trainer, loader, watch)
        finally:
            for learner in trainer.learners:
                learner.compiled.undo()


def _fit(trainer: "_Trainer", loader: Batches, watch: Watch | None) -> None:
    run = trainer.run
    trainer.restore()
    log = Log(run, trainer.accelerator, trainer.step, trainer.images, trainer.precision, watch)
    with noted(trainer.where), Interrupts(log.main) as interrupts, log, trainer.writer:
        trainer.check_best()
        batches = loader.batches(
            position=trainer.samples, rank=trainer.accelerator.process_index,
            world=trainer.accelerator.num_processes,
        )  # fmt: skip
        signal = 0
        while trainer.step < run.steps and not signal:
            trainer.gradients(batches)
            signal = trainer.update(log, interrupts.number)
            log.advance(trainer.step)
            if trainer.step % run.evaluate_every == 0 or trainer.step == run.steps:
                trainer.evaluate(log)
            if trainer.step % run.log_every == 0 or trainer.step == run.steps:
                log.metrics(trainer.step, trainer.means.take())
            if trainer.step % run.sample_every == 0 or trainer.step == run.steps:
                trainer.warn(log)
                trainer.preview(log)
            elif trainer.step == EARLY:
                trainer.preview(log)
            if trainer.wants_saving() or signal:
                trainer.save()
        # It may have come after the last step's question.
        if signal := signal or _of_any_rank(interrupts.number, trainer.accelerator.device):
            _stop(trainer, log, signal)
    trainer.finish()


def _stop(trainer: "_Trainer", log: Log, signal: int) -> NoReturn:
    """Wait for the checkpoint, and say so: whoever sends a signal may wait for seconds only."""
    began = time.monotonic()
    trainer.written()
    again = "the same command" if trainer.run.resume else "--run.resume"
    log.say(
        f"stopped at step {trainer.step}, saved {time.monotonic() - began:.1f} s later; {again} "
        "continues from there"
    )
    if trainer.run.requeue and signal == SIGTERM and log.main:
        log.say(requeue())
    raise Interrupted(signal, trainer.step)


class _Trainer:
    """The state of a run between two steps."""

    def __init__(
        self, objectives: Sequence[Objective], run: Run, loader: Batches | None = None
    ) -> None:
        self.run, self.loader = run, loader
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
        self.writer, self.saved, self.late = Writer(), time.monotonic(), False

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

    def update(self, log: Log, signal: int) -> int:
        """Move every learner, or none if a term is not finite; return the signal of any rank."""
        learners = [learner for learner in self.learners if learner.played]
        norms = [learner.norm(self.run.clip) for learner in learners]
        # One small exchange and one wait for the device per step, for all three questions.
        health = (
            torch.stack([*self.values.values(), *norms])
            .sum()
            .nan_to_num(torch.inf, torch.inf, torch.inf)
        )
        asked, late = health.new_full((), signal), health.new_full((), self._is_late())
        total, signals, others = all_mean(torch.stack([health, asked, late])).tolist()
        self.late = bool(others)
        if total == float("inf"):
            self._skip(log)
        else:
            self._move(learners)
            self.means.add({p.gradient: n for p, n in zip(learners, norms, strict=True)})
        for learner in self.learners:
            learner.optimizer.zero_grad()
        self.step, self.samples = self.step + 1, self.samples + self.images
        return signal or (SIGTERM if signals else 0)

    def _is_late(self) -> bool:
        """Whether the last checkpoint is as old as one may be; the main process's clock tells."""
        if self.run.save_minutes is None or not self.accelerator.is_main_process:
            return False
        return time.monotonic() - self.saved >= 60 * self.run.save_minutes

    def wants_saving(self) -> bool:
        """Whether it is the step for a checkpoint, or the time, on which all ranks agreed."""
        self.writer.check()
        return self.step % self.run.save_every == 0 or self.step == self.run.steps or self.late

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

    def warn(self, log: Log) -> None:
        """Pass on what objectives have to say."""
        for learner in self.learners:
            if said := learner.objective.warning():
                log.warn(self.step, said)

    def preview(self, log: Log) -> None:
        """Save the first objective's picture of itself, by its averaged weights."""
        objective = self.learners[0].objective
        if not log.main:
            return
        images = self._averaged(objective.preview)
        if images is None:
            return
        if not images.isfinite().all():  # an early one may be anything; training is told by losses
            log.warn(self.step, "what was drawn is not finite, and there is no picture")
            return
        log.picture(self.step, images, objective.captions)

    def check_best(self) -> None:
        """See that the run's best checkpoint can be told, before any step, by one evaluation.

        Raises:
            ValueError: there is no such figure, or nothing to measure it on.
        """
        if not (best := self.run.best):
            return
        evaluation = self.learners[0].objective.evaluation
        if evaluation is None:
            raise ValueError(
                "run.best is told by what is not trained on: give a validation, or choose "
                "run.best:none"
            )
        figures = self._averaged(evaluation)
        if best.figure not in figures:
            known = ", ".join(sorted(figures))
            raise ValueError(f"run.best.figure is {best.figure!r}: choose from {known}")

    def evaluate(self, log: Log) -> None:
        """Measure the first objective on what is not trained on, by its averaged weights; keep the
        checkpoint if it is the best.
        """
        evaluation = self.learners[0].objective.evaluation
        if evaluation is None:
            return
        # Every rank measures: all weights are equal, and nobody waits or decides alone.
        figures = self._averaged(evaluation)
        log.figures(self.step, figures)
        if not (best := self.run.best):
            return
        value = all_mean(torch.tensor(figures[best.figure], device=self.accelerator.device)).item()
        if best.beats(value, self.best):
            self.best = value
            self.save(BEST)

    def _averaged(self, look: Callable[[], R]) -> R:
        """What is seen of the first objective in evaluation, with its averaged weights."""
        objective = self.learners[0].objective
        objective.eval()
        # What is compiled is compiled for training's batches alone.
        stance = torch.compiler.set_stance("force_eager") if self.run.compile else nullcontext()
        with stance, self.average.applied() if self.average else nullcontext():
            seen = look()
        objective.train()
        return seen

    def save(self, name: str | None = None) -> None:
        """Begin to write a checkpoint, named after the step unless told otherwise; ranks hold the
        same state, so the main one writes, from a copy, while training goes on.
        """
        self.saved = time.monotonic()
        for mean in sorted(self.means.sums):
            self.means.sums[mean] = all_mean(self.means.sums[mean])
        learnt = self._learnt()
        if not self.accelerator.is_main_process:
            return
        self.writer.wait()  # before there is another copy
        parts = [learner.state() for learner in self.learners]
        groups = {f"{k}-{i}": v for i, part in enumerate(parts) for k, v in part.items()}
        groups["means"] = self.means.sums
        if self.average:
            groups["ema"] = self.average.tensors()
        if learnt is not None:
            groups["data"] = {"learnt": learnt}
        copies = {group: _copied(tensors) for group, tensors in groups.items()}
        folder, counts = self.run.checkpoints / (name or f"step-{self.step}"), self._counts()

        def write() -> None:
            checkpoint.write(folder, copies, counts)
            checkpoint.prune(self.run.checkpoints, self.run.keep)

        self.writer.start(write)

    def written(self) -> None:
        """Wait until every checkpoint is on disk, for all ranks."""
        by_main(self.writer.wait)

    def _learnt(self) -> Tensor | None:
        """What the loaders of all ranks have learnt."""
        mine = self.loader.learnt() if isinstance(self.loader, Learning) else None
        if mine is None:
            return None
        return all_gather(mine.to(self.accelerator.device)[None]).amax(0)

    def restore(self) -> None:
        """Take up the newest whole checkpoint, if the run resumes and there is one. Damaged ones
        that are newer are named and set aside.

        The main process reads it, and tells the others.

        Raises:
            ValueError: it is another recipe's, a longer run's, or one's with another global batch;
                or there are some, and none is whole.
        """
        found: list[Found] = []

        def look() -> Mapping[str, Any] | None:
            checkpoint.sweep(self.run.out)
            if self.run.resume and (newest := checkpoint.newest(self.run.checkpoints)):
                found.append(newest)
            return found[0].state if found else None

        state = by_main(look)
        if state is None:
            return
        self._take_up(of_main(lambda: found[0].groups if found else {}), state)
        for folder, why in found[0].damaged.items() if found else ():
            place = checkpoint.set_aside(folder)
            say(f"damaged: {why}; kept as {place}, going on from {found[0].folder.name}")

    def _take_up(self, groups: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
        counts = dict(state)
        self._check(counts["step"], counts["samples"])
        for i, learner in enumerate(self.learners):
            learner.load(groups[f"model-{i}"], groups[f"optimizer-{i}"])
        self.means.sums = {k: v.to(self.accelerator.device) for k, v in groups["means"].items()}
        self.means.counts = counts.pop("means")
        if (scaling := counts.pop("scaler", None)) and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaling)
        for name, value in counts.items():
            setattr(self, name, value)
        if self.average:
            self.average.load(groups["ema"], self.updates)
        if "data" in groups and isinstance(self.loader, Learning):
            self.loader.take_up(groups["data"]["learnt"])

    def _check(self, step: int, samples: int) -> None:
        if step > self.run.steps:
            raise ValueError(
                f"run.steps is {self.run.steps}, but {self.run.out} has been trained for {step}: "
                "ask for as many or more, or choose another --run.out"
            )
        # Sample j is the same however ranks and micro-batches share a step's samples.
        if samples != step * self.images:
            raise ValueError(
                f"{self.run.out} took {samples // step} samples a step and would now take "
                f"{self.images}, processes * run.batch_size * run.accumulate: start as many "
                "processes as before, or change --run.accumulate or --run.batch-size to make it up"
            )

    def _counts(self) -> Mapping[str, Any]:
        names = ("step", "samples", "updates", "skipped", "skipped_in_a_row", "best")
        counts = {name: getattr(self, name) for name in names}
        scaling = {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        return {**counts, "means": dict(self.means.counts), **scaling}

    def where(self) -> str:
        """Where the run stands, and how it goes on."""
        run, found = self.run, checkpoint.complete(self.run.checkpoints)
        mend = (
            f"the newest checkpoint is of {found[-1].name.replace('-', ' ')}: the same command"
            f"{'' if run.resume else ' with --run.resume'} goes on from there"
            if found
            else "there is no checkpoint yet: the same command begins anew"
        )
        return f"{run.out}: after step {self.step} of {run.steps}; {mend}"

    def finish(self) -> None:
        """Leave the averaged weights in the first objective, ready for export; of the best
        checkpoint, if the run keeps one.

        Raises:
            DivergedError: nothing was learnt.
        """
        self.written()
        if not self.updates:
            raise DivergedError(
                f"each of {self.step} steps was skipped, and there is nothing to export: begin "
                "anew with --run.overwrite and a lower optimizer.lr, or in fp32"
            )
        if self.run.best and (groups := of_main(self._of_best)):
            self.learners[0].load(groups["model-0"], groups["optimizer-0"])
            if self.average:
                self.average.load(groups["ema"], self.updates)
        if self.average:
            self.average.apply()
        for learner in self.learners:
            learner.objective.eval()
        self.accelerator.wait_for_everyone()

    def _of_best(self) -> Mapping[str, Tensors]:
        """What it holds; nothing, if no figure was ever a number."""
        folder = self.run.checkpoints / BEST
        if not folder.exists():
            return {}
        try:
            return checkpoint.read(folder)[0]
        except checkpoint.DamagedError as error:
            raise checkpoint.DamagedError(
                f"{error}: put back a copy, or delete {folder}, and --run.resume exports the last "
                "weights"
            ) from error


def _of_any_rank(signal: int, device: torch.device) -> int:
    """The signal sent to this rank, or SIGTERM if another alone was sent one, or 0."""
    signals = all_mean(torch.tensor(float(signal), device=device)).item()
    return signal or (SIGTERM if signals else 0)


def _copied(tensors: Tensors) -> Tensors:
    """Tensors as they are now, in the memory of the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
