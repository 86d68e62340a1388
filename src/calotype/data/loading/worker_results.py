"""What reading a batch came to, as a worker tells it to the training process."""

from collections.abc import Callable, Iterable, Iterator
from traceback import format_exc
from typing import NamedTuple

from torch.utils.data import get_worker_info

from calotype.data.loading.batches import Batch
from calotype.data.reading.records import Reader
from calotype.data.reading.removed import News
from calotype.mistakes import TracebackElsewhere, is_told, sendable
from calotype.training.progress import say


class WorkerResult(NamedTuple):
    """A batch, or the error that it ended in, and what was skipped on the way."""

    batch: Batch | BaseException | None
    """None: there are no more."""
    traceback: str = ""
    """Of the error, in the worker."""
    told: bool = True
    """Whether the error's message tells a user all: see `calotype.mistakes`."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Name of each broken picture that this worker met first, and what is wrong with it."""
    doubts: tuple[tuple[str, str], ...] = ()
    """What could not be heeded of some, as this worker met it first, and the name of one."""
    learnt: tuple[tuple[int, int], ...] = ()
    """Parts of a stream that were read to their end, and how many records each has."""
    removed: tuple[News, ...] = ()
    """What filters of a stream have removed in the parts that this worker went on with."""


def worker_result(read: Callable[[], Batch | None], reader: Reader | None) -> WorkerResult:
    """Read a batch; a worker hands back what goes wrong.

    If it raised, DataLoader would bury the message in a traceback, and if it warned, so would each
    other worker that meets the same picture.
    """
    if get_worker_info() is None:
        return WorkerResult(read())
    if reader is None:
        return _read(read)
    reader.warns, skipped, doubts = False, len(reader.skipped), len(reader.doubts)
    return _read(read)._replace(
        skipped=tuple(reader.skipped.items())[skipped:],
        doubts=tuple(reader.doubts.items())[doubts:],
        removed=reader.removals.news(),
    )


def received(
    results: Iterator[WorkerResult],
    reader: Reader | None,
    learn: Callable[[int, int], None] = lambda part, length: None,
    *,
    endless: bool = False,
) -> Iterator[Batch]:
    """Give the batches in the training process, which warns of what was skipped, tells what filters
    removed, and hears what was learnt of a stream's parts.

    Raises:
        Exception: what a worker met.
    """
    try:
        for batch, traceback, told, skipped, doubts, learnt, removed in results:
            for name, reason in skipped:
                assert reader
                reader.skip(name, reason)
            for doubt, name in doubts:
                assert reader
                reader.tell(doubt, name)
            for part, length in learnt:
                learn(part, length)
            _tell_removed(reader, removed)
            if isinstance(batch, BaseException):
                raise batch from TracebackElsewhere(traceback, told)
            if batch is not None:
                yield batch
    finally:
        del results  # ends the workers now, and not when the error's traceback is let go
        # Of a look at the first few what was removed is no news; of a run, that ends here, it is.
        _tell_removed(reader, (), ending=endless)


def _tell_removed(reader: Reader | None, removed: Iterable[News], *, ending: bool = False) -> None:
    for line in reader.removals.told(removed, ending=ending) if reader else ():
        say(line)


def _read(read: Callable[[], Batch | None]) -> WorkerResult:
    try:
        return WorkerResult(read())
    except Exception as error:
        return WorkerResult(sendable(error), format_exc(), is_told(error))
