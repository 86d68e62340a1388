"""Workers live as long as the training process needs them, and no longer.

Also a program, for a test of its end: python tests/data/test_workers.py
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from calotype.data import Loader, Record, Stream, Whole
from calotype.data.loading.worker_results import WorkerResult, received
from calotype.data.reading.records import Reader
from calotype.mistakes import is_told

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


class Long(Dataset[dict[str, Any]]):
    """Captions too long for a pipe to hold a batch of them; the first `good` can be read."""

    def __init__(self, good: int = 100) -> None:
        self.good = good

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= self.good:
            raise ValueError("bad")
        return {"caption": f"{index} " + "long " * 20_000}


def records():
    for i in range(100):
        yield Record(b"P6 1 1 255 RGB", str(i), str(i))


def loader(kind: str = "map", workers: int = 2) -> Loader:
    data = Long() if kind == "map" else Stream(Whole(records), Reader("stop", "numbers"))
    return Loader(data, 4, seed=0, workers=workers)


@pytest.mark.parametrize("kind", ["map", "stream"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_bug_workers_died_of_a_signal_to_all_processes(kind: str, number: int) -> None:
    """Bug: torchrun, Slurm and systemd each send all of them a SIGTERM, and none was left to give
    the batches of the step that was to be saved.
    """
    expected = [batch["caption"] for batch in islice(loader(kind, 0).batches(), 12)]
    before = set(multiprocessing.active_children())
    batches = loader(kind).batches()
    workers = [p for p in multiprocessing.active_children() if p not in before]
    captions = [next(batches)["caption"] for _ in range(2)]  # by now both have begun
    for _ in range(2):
        for worker in workers:
            os.kill(worker.pid or 0, number)
        captions += [next(batches)["caption"] for _ in range(5)]
    assert workers and captions == expected
    del batches
    assert not any(worker.is_alive() for worker in workers)


def test_bug_an_error_kept_the_workers() -> None:
    """Bug: they waited, five seconds each, until the error's traceback was let go."""
    before = set(multiprocessing.active_children())
    batches = Loader(Long(good=4), 4, seed=0, shuffle=False, workers=2).batches()
    workers = [p for p in multiprocessing.active_children() if p not in before]
    with pytest.raises(ValueError, match="bad") as error:
        list(batches)
    assert error and workers and not any(worker.is_alive() for worker in workers)


def wait(told: Connection) -> None:
    """Read a batch, tell of the workers, wait for the end."""
    batches = loader().batches()
    next(batches)
    told.send([p.pid for p in multiprocessing.active_children()])
    time.sleep(600)


@LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_bug_workers_outlived_the_training_process(number: int) -> None:
    """Bug: one that had more to send than a pipe holds waited for ever."""
    fork = multiprocessing.get_context("fork")
    told, tell = fork.Pipe(duplex=False)
    process = fork.Process(target=wait, args=(tell,))
    process.start()
    assert told.poll(60)
    workers = told.recv()
    os.kill(process.pid or 0, number)
    process.join()
    assert len(workers) == 2
    end = time.monotonic() + 30
    while any(map(_runs, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("state", ["busy", "hung"])
def test_the_workers_of_a_program_that_fails_end_with_it(state: str) -> None:
    """They ignore the SIGTERM by which Python would end them, and would be waited for."""
    program = [sys.executable, __file__, state]
    done = subprocess.run(program, timeout=120, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("KeyError: 'uncaught'\n")


@pytest.mark.parametrize("told", [True, False])
def test_a_workers_error_is_told_as_the_worker_says(told: bool) -> None:
    """The traceback that tells whose error it is stays in the worker."""
    result = WorkerResult(ValueError("of one kind or the other"), "Traceback ...", told)
    with pytest.raises(ValueError, match="one kind") as caught:
        next(received(iter([result]), None))
    assert is_told(caught.value) is told


if __name__ == "__main__":
    batches = loader().batches()
    next(batches)
    if sys.argv[1] == "hung":
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGSTOP)
    raise KeyError("uncaught")
