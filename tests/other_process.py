"""What a process beside the tests' own is given to do; it can import this file."""

import os
import signal
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import torch
from torch.utils.data import Dataset

import tiny
from calotype.tokenizers import ImageTokenizer
from calotype.training import checkpoint
from calotype.training.lock import held


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


class Encoded(Dataset):
    """Latents that a worker of a DataLoader makes."""

    def __init__(self, tokenizer: ImageTokenizer, images: torch.Tensor) -> None:
        self.tokenizer, self.images = tokenizer, images

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def __getitem__(self, index: int) -> torch.Tensor:
        return self.tokenizer.latents(self.images[index : index + 1])[0]


@torch.no_grad()
def compile_tokenizers() -> None:
    """Decoders in one graph, and all that a continuous one does: where types
    are believed, what checks them cannot be traced.
    """
    images = tiny.images(2)
    for spec in (tiny.BOTTLENECK, tiny.VQ_BOTTLENECK):
        tokenizer = tiny.tokenizer(bottleneck=spec).eval()
        z = tokenizer.latents(images)
        decode = torch.compile(tokenizer.decode, backend="eager", fullgraph=True)
        torch.testing.assert_close(decode(z), tokenizer.decode(z))
        if spec == tiny.BOTTLENECK:
            whole = torch.compile(tokenizer, backend="eager", fullgraph=True)
            torch.testing.assert_close(whole(images), tokenizer(images))
        print(type(tokenizer.bottleneck).__name__)


def save_for_ever(out: Path) -> None:
    """Of the fourth step."""
    write = checkpoint.write

    def slowly(folder, groups, state):
        if state["step"] == 4:
            folder.with_name(".step-4.partial").mkdir()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        write(folder, groups, state)

    with patch.object(checkpoint, "write", slowly), held(out):
        tiny.train("generator", tiny.run(out, steps=1000, save_every=2))
