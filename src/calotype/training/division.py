"""How a step's samples are shared: among processes, and by each among micro-batches."""

from dataclasses import dataclass, replace

from calotype.training.run import Run

MEASURED = 32
"""Most samples that are measured at once."""


@dataclass(frozen=True)
class Division:
    """Equal parts of an optimiser step, so that a mean over all of them is that of the whole."""

    batch: int
    """Samples of the step."""
    processes: int
    micro_batch: int
    """Samples that a process takes at once; a divisor of its share."""

    @classmethod
    def of(cls, run: Run, processes: int) -> "Division":
        """Share a run's batch among so many processes, and each share in the largest parts that
        `run.micro_batch` allows.

        Raises:
            ValueError: the processes do not divide it.
        """
        share = shared(run.batch_size, processes)
        return cls(run.batch_size, processes, largest_part(share, run.micro_batch))

    @property
    def share(self) -> int:
        """Samples of a process."""
        return self.batch // self.processes

    @property
    def count(self) -> int:
        """Micro-batches of a process."""
        return self.share // self.micro_batch

    @property
    def measured(self) -> int:
        """Samples of a process that are measured at once: a few, for training may have found that
        fewer fit than it was asked to take.
        """
        return largest_part(self.share, min(self.micro_batch, MEASURED))

    def halved(self) -> "Division | None":
        """With micro-batches of half as many samples, or of fewer where half does not divide them;
        None: they are of one.
        """
        if self.micro_batch == 1:
            return None
        return replace(self, micro_batch=largest_part(self.micro_batch, self.micro_batch // 2))


def shared(batch: int, processes: int) -> int:
    """Samples of each of so many processes.

    Raises:
        ValueError: they do not divide the batch.
    """
    share, left = divmod(batch, processes)
    if left or not share:
        near = [n * processes for n in (share, share + 1) if n]
        raise ValueError(
            f"run.batch_size is {batch}, of all processes together, and {processes} do not share "
            f"it alike: choose --run.batch-size {' or '.join(map(str, near))}, or as many "
            "processes as divide it"
        )
    return share


def largest_part(whole: int, most: int | None) -> int:
    """The largest equal part of no more than so many samples; None: all of them."""
    if most is None or most >= whole:
        return whole
    return next(n for n in range(most, 0, -1) if whole % n == 0)
