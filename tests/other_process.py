"""What a process beside the tests' own is given to do; it can import this file."""

import os
import signal
import time
from pathlib import Path

import torch


def about_itself() -> tuple[int, int]:
    print("working", flush=True)
    return os.getpid(), torch.get_num_threads()


def wait_for_a_signal(file: Path) -> None:
    """As training does: it finishes what it is at."""
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    file.write_text("waits")
    while not heard:
        time.sleep(0.01)
    time.sleep(0.2)
    file.write_text(f"saved after {len(heard)}")


def never_end(file: Path) -> None:
    file.write_text(f"{os.getpid()}\n")
    while True:
        time.sleep(0.01)


def fail() -> None:
    raise RuntimeError("out of luck")
