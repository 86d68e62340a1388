"""A scheduler that stops a run is asked to start it again."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from calotype.training.distributed import processes
from calotype.training.interrupt import Interrupted
from calotype.training.progress import say
from calotype.training.run import Run


@contextmanager
def requeued(run: Run | None) -> Iterator[None]:
    """A run that asks for it, and that a scheduler stops while this is entered, is started again.
    While it trains it saves first; before and behind that there is nothing to save, and it ends at
    once.

    Raises:
        Interrupted: on SIGTERM.
    """
    if run is None or not run.requeue or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except Interrupted as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun, SLURM and others each send one
        if stop.number == signal.SIGTERM and not stop.requeued and processes().is_main_process:
            stop.requeued = True
            say(requeue())
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    if os.environ.get("RANK", "0") == "0":
        # Whatever was being printed is not to be entered again from here.
        os.write(2, b"\nstopping: there is nothing to save\n")
    raise Interrupted(number, 0)


def requeue() -> str:
    """Ask the scheduler to start this job again, where it must be asked; returns what came of it,
    in words. SLURM must be. Kubernetes and other launchers start again what ends with another code
    than 0, as a run does that was stopped.
    """
    job = slurm_job()
    if job is None:
        return "no job of SLURM: whoever started it starts it again"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        return f"job {job} was not requeued: there is no scontrol here"
    except subprocess.CalledProcessError as error:
        return f"job {job} was not requeued: {error.stderr.strip() or error}"
    return f"job {job} is requeued, and goes on from there"


def slurm_job() -> str | None:
    """The job of SLURM that this process is of, a single one of an array; None: it is of none."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
