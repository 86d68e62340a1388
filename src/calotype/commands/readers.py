"""How many processes read pictures: no more than there are cores for them."""

import os

from torch.utils.data import Dataset

from calotype.data.streams import Stream
from calotype.training.progress import say


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def readers(asked: int, dataset: Dataset) -> int:
    """So many as are asked for, or fewer, which is said. Of a stream from elsewhere they are
    threads, which wait for the network and need no cores.
    """
    elsewhere = isinstance(dataset, Stream) and not dataset.local
    if elsewhere or asked <= (there := cores()):
        return asked
    say(f"workers: {there} of the {asked} asked for read, one for each core of this process")
    return there
