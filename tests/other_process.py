"""What a process beside the tests' own is given to do; it can import this file."""

import os
import time
import warnings
from pathlib import Path

import torch

import tiny


def about_itself() -> tuple[int, int]:
    print("working", flush=True)
    return os.getpid(), torch.get_num_threads()


def train(out: Path) -> None:
    """More steps than any test waits for; nothing is saved before it is stopped."""
    tiny.train("generator", tiny.run(out, steps=10**6, save_every=10**6, log_every=1))


def never_end(file: Path) -> None:
    file.write_text(f"{os.getpid()}\n")
    while True:
        time.sleep(0.01)


def fail() -> None:
    raise RuntimeError("out of luck")


def refuse() -> None:
    from calotype.training import Run

    Run(steps=0)


def die() -> None:
    os.kill(os.getpid(), 9)


def warn() -> None:
    """Two warnings, of which a command shows one, and work that goes on."""
    warnings.warn("of no use", FutureWarning, stacklevel=1)
    warnings.warn("half as fast as it should be", stacklevel=1)
