"""What ranks do that hold shares of the weights; they can import this file."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import save_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.training import Best, Run, checkpoint
from calotype.training.distributed import leave


def join(rank: int, world: int, port: int, shared: bool = True) -> None:
    """Be one of several ranks; `shared`: by FSDP2."""
    if shared:
        os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    tiny.join(rank, world, port)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)


def train(rank: int, world: int, port: int, shared: bool, runs: Sequence[tuple[str, Run]]) -> None:
    """Train one run after another as one of several ranks."""
    join(rank, world, port, shared)
    for kind, run in runs:
        objectives = tiny.train(kind, run)
        kinds = [sorted({f"{type(p).__name__} on {p.device.type}" for p in each.parameters()
                         if p.requires_grad}) for each in objectives]  # fmt: skip
        (run.out / f"left-on-{rank}.json").write_text(json.dumps(kinds))
        if rank == 0:
            state = objectives[0].state_dict()
            left = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
            save_file(left, run.out / "left.safetensors")
    leave()


def whole_way(rank: int, world: int, port: int, shared: bool, root: Path, artifacts: Path) -> None:
    """A tokenizer with codes that a loss moves, and its adversary; a cache; a transformer over it,
    and a diffusion pipeline over others' latents: with pictures and figures on the way."""
    join(rank, world, port, shared)
    tokenizer, cached, transformer = tiny.token_recipes(root, tiny.BOTTLENECKS["vq-loss"])
    often = {"steps": 2, "batch_size": 4, "sample_every": 1, "evaluate_every": 1, "save_every": 1}
    held_out = tiny.Scenes(size=tiny.SIZE, split="held-out", count=4)
    best = tiny.run(tokenizer.run.out, **often, best=Best())
    tiny.train_tokenizer(replace(tokenizer, adversary=tiny.adversary(), validation=held_out,
                                 run=best))  # fmt: skip
    cache(cached)
    tiny.train_generator(replace(transformer, run=tiny.run(transformer.run.out, **often)))
    diffusion = tiny.run(root / "diffusion", **often)
    tiny.train("pipeline", diffusion, artifacts)
    leave()


def broken(rank: int, world: int, port: int, run: Run) -> None:
    """Train on what is not finite on one rank alone."""
    join(rank, world, port)
    rows = tiny.latents()
    if rank == 1:
        rows["packed"][:] = float("nan")
    objective = tiny.denoising()
    said = []
    run.out.mkdir(parents=True, exist_ok=True)
    try:
        tiny.fit([objective], tiny.Repeating(rows, 4), run)
    except ValueError as error:
        said.append(str(error))
    (run.out / f"said-{rank}.json").write_text(json.dumps(said))
    leave()


def full(rank: int, world: int, port: int, run: Run) -> None:
    """Save twice; the second time the disk fails under one rank alone."""
    join(rank, world, port)
    checksum, count = checkpoint.checksum, 0

    def failing(file: Path) -> str:
        nonlocal count
        count += 1
        if rank == 1 and count > 1:
            raise OSError(28, "No space left on device", str(file))
        return checksum(file)

    said = ""
    with patch.object(checkpoint, "checksum", failing):
        try:
            tiny.train("generator", run)
        except OSError as error:
            said = str(error)
    run.out.joinpath(f"said-{rank}.json").write_text(json.dumps(said))
    leave()
