"""The checkpoints of a run: when they are written, what they hold, and how one is taken up."""

import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from calotype.training import checkpoint
from calotype.training.agreement import by_all, by_main, gathered
from calotype.training.background import Writer
from calotype.training.checkpoint import Found, Tensors
from calotype.training.distributed import all_gather, all_mean
from calotype.training.holding import Groups
from calotype.training.learner import Learner
from calotype.training.lost import of_all
from calotype.training.objective import Batches, Learning
from calotype.training.progress import say
from calotype.training.trainer import DivergedError, Trainer

BEST = "best"
"""Name of the best checkpoint."""


class Keeper:
    """Writes the checkpoints of a trainer, and gives it what one holds; its loader too, if that has
    learnt anything.
    """

    def __init__(self, trainer: Trainer, loader: Batches) -> None:
        self.trainer, self.loader, self.run = trainer, loader, trainer.run
        self.writer, self.saved = Writer(), time.monotonic()

    def is_late(self) -> bool:
        """Whether the last checkpoint is as old as one may be, or could not be written; the main
        process tells.
        """
        if self.writer.failed:
            return True
        if self.run.save_minutes is None or not self.trainer.accelerator.is_main_process:
            return False
        return time.monotonic() - self.saved >= 60 * self.run.save_minutes

    def is_due(self, late: bool) -> bool:
        """Whether it is the step for a checkpoint, or the time, on which all ranks agreed."""
        step = self.trainer.step
        return step % self.run.save_every == 0 or step == self.run.steps or late

    def save(self, name: str | None = None) -> None:
        """Begin to write a checkpoint, named after the step unless told otherwise, from a copy,
        while training goes on; by each rank that holds what others do not, or else the main one.

        Raises:
            Exception: on all ranks, why the one before could not be written.
        """
        self.written()  # before there is another copy
        if name is None:  # a run goes on from those of steps alone
            self.saved = time.monotonic()
        for mean in sorted(self.trainer.means.sums):
            self.trainer.means.sums[mean] = all_mean(self.trainer.means.sums[mean])
        learnt = self._learnt()
        weights, main = self.trainer.weights, self.trainer.accelerator.is_main_process
        if not weights.writes:
            return
        groups = self._groups([learner.state() for learner in self.trainer.learners])
        if learnt is not None:
            groups["data"] = {"learnt": learnt}
        folder = self.run.checkpoints / (name or f"step-{self.trainer.step}")
        write_copies = weights.writing(folder, groups, self._counts())

        def write() -> None:
            write_copies()
            if main:
                checkpoint.prune(self.run.checkpoints, self.run.keep)

        self.writer.start(write)

    def _groups(self, parts: Sequence[Mapping[str, Tensors]]) -> dict[str, Tensors]:
        """What a checkpoint keeps, by group; what is each learner's is given."""
        groups = {f"{k}-{i}": v for i, part in enumerate(parts) for k, v in part.items()}
        groups["means"] = self.trainer.means.sums
        if average := self.trainer.average:
            moving = self.trainer.learners[0].learnt
            groups["ema"] = self.trainer.weights.parts(average.tensors(), moving)
        return groups

    def written(self) -> None:
        """Wait until every checkpoint is on disk, for all ranks."""
        by_all(self.writer.wait)

    def _learnt(self) -> Tensor | None:
        """What the loaders of all ranks have learnt."""
        mine = self.loader.learnt() if isinstance(self.loader, Learning) else None
        if mine is None:
            return None
        return all_gather(mine.to(self.trainer.accelerator.device)[None]).amax(0)

    def restore(self) -> None:
        """Take up the newest whole checkpoint, if the run resumes and there is one. Damaged ones
        that are newer are named and set aside.

        The main process finds it, and tells the others.

        Raises:
            ValueError: it is another recipe's, a longer run's, or one's with another global batch;
                or there are some, and none is whole.
        """
        found: list[Found] = []

        def look() -> Mapping[str, Any] | None:
            checkpoint.sweep(self.run.out)
            if self.run.resume:
                newest = checkpoint.newest(self.run.checkpoints, self.trainer.weights.look)
                found.extend([newest] if newest else [])
            return found[0].state if found else None

        self._check_newest()
        state = by_main(look)
        if state is None:
            return
        self._take_up(self._read(found), state)
        for folder, why in found[0].damaged.items() if found else ():
            place = checkpoint.set_aside(folder)
            say(f"damaged: {why}; kept as {place}, going on from {found[0].folder.name}")

    def _check_newest(self) -> None:
        """Refuse to begin before what another machine has: launchers number these by their names,
        and the one that kept the checkpoints may not be the first any more.

        Raises:
            ValueError: on all ranks, another has a newer checkpoint than the main process.
        """
        if not self.run.resume:
            return
        there = checkpoint.complete(self.run.checkpoints)
        own = int(there[-1].name.removeprefix("step-")) if there else 0
        every = gathered((own, socket.gethostname()))
        step, host = max(every)
        if step > every[0][0]:
            raise of_all(ValueError(
                f"{self.run.out}: {host} has a checkpoint of step {step}, and the main process "
                f"on {every[0][1]} none after step {every[0][0]}: copy that there, or let {host} "
                "be the first"
            ))  # fmt: skip

    def _read(self, found: Sequence[Found]) -> Groups:
        """What the checkpoint holds that the main process has found."""
        likes = self._groups([learner.likes() for learner in self.trainer.learners])
        return self.trainer.weights.read(found[0] if found else None, likes)

    def _take_up(self, groups: Groups, state: Mapping[str, Any]) -> None:
        counts = dict(state)
        self._check(counts["step"], counts["samples"])
        device, kept = self.trainer.accelerator.device, groups.get("means", {})
        self.trainer.means.sums = {name: sums.to(device) for name, sums in kept.items()}
        self.trainer.means.counts = counts.pop("means")
        if (scaling := counts.pop("scaler", None)) and self.trainer.scaler.is_enabled():
            self.trainer.scaler.load_state_dict(scaling)
        for name, value in counts.items():
            setattr(self.trainer, name, value)
        self._load(groups, self.trainer.learners)
        if "data" in groups and isinstance(self.loader, Learning):
            self.loader.take_up(groups["data"]["learnt"])

    def _load(self, groups: Groups, learners: Sequence[Learner]) -> None:
        """Give learners, and the average, what a checkpoint holds of them."""
        for i, learner in enumerate(learners):
            learner.load(groups[f"model-{i}"], groups.get(f"optimizer-{i}", {}))
        if average := self.trainer.average:
            shares = self.trainer.weights.shares(groups["ema"], learners[0].learnt)
            average.load(shares, self.trainer.updates)

    def _check(self, step: int, samples: int) -> None:
        if step > self.run.steps:
            raise ValueError(
                f"run.steps is {self.run.steps}, but {self.run.out} has been trained for {step}: "
                "ask for as many or more, or choose another --run.out"
            )
        # Sample j is the same however ranks and micro-batches share a step's samples.
        if samples != step * self.run.batch_size:
            raise ValueError(
                f"{self.run.out} took {samples // step} samples a step and would now take "
                f"{self.run.batch_size}: choose --run.batch-size {samples // step}, which is of "
                "all processes and micro-batches together"
            )

    def _counts(self) -> Mapping[str, Any]:
        names = ("step", "samples", "updates", "skipped", "skipped_in_a_row", "best", "looked")
        counts = {name: getattr(self.trainer, name) for name in names}
        scaling = (
            {"scaler": self.trainer.scaler.state_dict()} if self.trainer.scaler.is_enabled() else {}
        )
        return {**counts, "means": dict(self.trainer.means.counts), **scaling}

    def where(self) -> str:
        """Where the run stands, and how it goes on."""
        run, found = self.run, checkpoint.complete(self.run.checkpoints)
        if not self.trainer.accelerator.is_main_process:  # which may have a disk of its own
            return f"{run.out}: after step {self.trainer.step} of {run.steps}"
        mend = (
            f"the newest checkpoint is of {found[-1].name.replace('-', ' ')}: the same command"
            f"{'' if run.resume else ' with --run.resume'} goes on from there"
            if found
            else "there is no checkpoint yet: the same command begins anew"
        )
        return f"{run.out}: after step {self.trainer.step} of {run.steps}; {mend}"

    def finish(self) -> None:
        """Leave the averaged weights in the first objective, ready for export; of the best
        checkpoint, if the run keeps one.

        Raises:
            DivergedError: nothing was learnt.
        """
        self.written()
        if not self.trainer.updates:
            raise DivergedError(
                f"each of {self.trainer.step} steps was skipped, and there is nothing to export: "
                "begin anew with --run.overwrite and a lower optimizer.lr, or in fp32"
            )
        if self.run.best:
            self._take_best()
        if self.trainer.average:
            self.trainer.average.apply()
        self.trainer.weights.leave()
        for learner in self.trainer.learners:
            learner.objective.eval()
        self.trainer.accelerator.wait_for_everyone()

    def _take_best(self) -> None:
        """Take up the best checkpoint; there is none if no figure was ever a number."""
        folder, found = self.run.checkpoints / BEST, []

        def look() -> bool:
            if folder.exists():
                found.append(Found(folder, *self.trainer.weights.look(folder), {}))
            return folder.exists()

        try:
            if by_main(look):
                self._load(self._read(found), self.trainer.learners[:1])
        except checkpoint.DamagedError as error:
            raise checkpoint.DamagedError(
                f"{error}: put back a copy, or delete {folder}, and --run.resume exports the last "
                "weights"
            ) from error
