"""Processes of their own, alone or as ranks, which start as copies of one that has imported all."""

import multiprocessing
import socket
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from signal import SIGABRT, SIGSEGV
from typing import Any

from filelock import FileLock

import tiny

PROCESSES = multiprocessing.get_context("forkserver")
# A process then starts at once, as the copy of one that has imported these: ours, and the libraries
# that ours import when they are first used.
PROCESSES.set_forkserver_preload([
    "calotype.commands.train_tokenizer", "calotype.commands.train_generator",
    "accelerate", "accelerate.tracking", "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.autoencoders.vq_model", "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.schedulers.scheduling_dpmsolver_multistep", "diffusers.training_utils",
    "transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama",
])  # fmt: skip


def alone(*arguments: Any) -> ForkServerProcess:
    """Start `tiny.alone`."""
    process = PROCESSES.Process(target=tiny.alone, args=arguments)
    process.start()
    return process


def ranks(
    world: int, kind: str, out: Path, artifacts: Path | None = None, local: bool = False, **changes
) -> None:
    """Train on so many ranks."""
    together(world, tiny.ranked, local, kind, out, changes, artifacts)


class AbortedError(AssertionError):
    """The C library, or the kernel, ended a process: nothing that it did was compared."""


def together(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """Let so many processes do a work that begins with `tiny.join(rank, world, port)`."""
    codes = started(world, work, *arguments)
    if {-SIGABRT, -SIGSEGV} & {*codes}:
        raise AbortedError(f"exit codes {codes}")
    assert codes == [0] * world


def started(world: int, work: Callable[..., None], *arguments: Any) -> list[int | None]:
    """The same; returns how each ended."""
    # Of two tests at once each would wait for ranks whose turn it is not, five times as long.
    with FileLock(Path(tempfile.gettempdir()) / "calotype-ranks.lock"):
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        every = []
        for rank in range(world):
            every.append(PROCESSES.Process(target=work, args=(rank, world, port, *arguments)))
            every[-1].start()
        for process in every:
            process.join()
    return [process.exitcode for process in every]
