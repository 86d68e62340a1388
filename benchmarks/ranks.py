"""Seconds of a training step by 1, 2 and 4 processes, and what they say to one another in it.

    python benchmarks/ranks.py

The same 16 samples a step, shared among processes of one thread each, by `fit`. Calls and bytes of
an exchange are counted as they are asked for, gradients' too, in a run of its own; beside them is
what has to be exchanged: four bytes for each number that is learnt. Over the wire a ring sends
2 (n - 1) / n of that from each process. More processes than cores share these.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from paired import Timed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from calotype.autoregressive import Layout, NextToken, Raster, Transformer
from calotype.data import Scenes
from calotype.data.prompts import tokenize
from calotype.diffusion import Flow, LatentSource, LearntText, TextDenoising, UNet
from calotype.diffusion import tokenize as text_tokens
from calotype.tokenizers import Backbone, Critic, Gaussian, ImageTokenizer, Reconstruction
from calotype.tokenizers.terms import L1, Adversary
from calotype.training import AdamW, Batch, Objective, Run, fit

IMAGES, STEPS, WORLDS = 16, 8, (1, 2, 4)
ADAMW = AdamW(1e-4)
LATENT = Gaussian(channels=4)
TEXT = LearntText(width=128, layers=1, heads=4, length=16, vocabulary=600)
CAPTIONS = ["a red circle", "a blue square", "a green cross", "a large pink ring"] * 4


def tokenizer(rank: int, count: int) -> tuple[list[Objective], Batch]:
    """KL, L1 and the adaptive adversary, at 64 pixels."""
    backbone = Backbone((32, 64, 128), layers=1, attention=False, groups=8)
    made = ImageTokenizer(backbone.autoencoder(LATENT, 64), LATENT.build())
    first = Reconstruction(made, {"pixel": (1.0, L1().build())}, ADAMW)
    critic = Critic(Adversary(start=0, effect_start=0), first, ADAMW)
    image = Scenes(size=64).build().batch(range(rank * count, (rank + 1) * count))["image"]
    return [first, critic], {"image": image}


def diffusion(rank: int, count: int) -> tuple[list[Objective], Batch]:
    """A UNet and its text encoder in 16x16 latents."""
    reads = TEXT.tokenizer(CAPTIONS)
    unet = UNet((32, 64, 128), (False, True, True), layers=1, head_width=32, groups=16)
    model = TextDenoising(
        unet.conditional(16, 4, TEXT.width), TEXT.encoder(reads), text_tokens(reads, [""])[0],
        LatentSource(LATENT.build(), 1.0), Flow(), ADAMW,
    )  # fmt: skip
    said = tokenize(reads, CAPTIONS[:count])
    return [model], {"packed": torch.randn(count, 8, 16, 16), **said._asdict()}


def next_token(rank: int, count: int) -> tuple[list[Objective], Batch]:
    """A transformer over 16 text tokens and 256 of the image."""
    layout = Layout(text=600, codes=512, codebooks=1, height=16, width=16)
    model = NextToken(Transformer(192, 4, 6).build(layout, 16), layout, Raster(), ADAMW)
    ids = torch.randint(512, (count, 16, 16), dtype=torch.int32)
    tokens = torch.randint(600, (count, 16))
    return [model], {"packed": ids, "tokens": tokens, "lengths": torch.full((count,), 16)}


JOBS: dict[str, Callable[[int, int], tuple[list[Objective], Batch]]] = {
    "KL tokenizer with adversary": tokenizer, "diffusion": diffusion, "next token": next_token,
}  # fmt: skip


class Hooked(DistributedDataParallel):
    """Exchanges gradients where a counter sees it; C++ would do the same unseen."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_comm_hook(None, allreduce_hook)


@contextmanager
def counted() -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Calls and bytes of exchanges, by name."""
    calls, sizes = Counter(), Counter()

    def watched(name: str) -> Callable[..., Any]:
        exchange = getattr(dist, name)

        def call(*arguments: Any, **options: Any) -> Any:
            # Of a gathering, what this process gives.
            given = arguments[1] if name == "all_gather" else arguments[0]
            calls[name] += 1
            sizes[name] += given.nbytes
            return exchange(*arguments, **options)

        return call

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.nn.parallel, "DistributedDataParallel", Hooked))
        for name in ("all_reduce", "all_gather", "broadcast"):
            stack.enter_context(patch.object(dist, name, watched(name)))
        yield calls, sizes


def train(name: str, steps: int) -> tuple[Timed, int]:
    """`fit`, its loader, which knows the times, and how many numbers are learnt."""
    torch.manual_seed(0)
    rank, world = (int(os.environ.get(key, one)) for key, one in (("RANK", 0), ("WORLD_SIZE", 1)))
    count = IMAGES // world
    objectives, batch = JOBS[name](rank, count)

    def batches() -> Iterator[Batch]:
        first = rank * count
        while True:
            yield {**batch, "key": [*range(first, first + count)]}
            first += IMAGES

    timed = Timed(batches)
    with tempfile.TemporaryDirectory() as out:
        run = Run(Path(out), steps=steps, batch_size=IMAGES, precision="fp32", ema=None,
                  log_every=9999, save_every=9999, sample_every=9999)  # fmt: skip
        fit(objectives, timed, run)
    learnt = [p.numel() for each in objectives for p in each.parameters() if p.requires_grad]
    return timed, sum(learnt)


def rank() -> None:
    """One process: prints, by job, seconds, numbers learnt, calls and bytes of one step."""
    found = {}
    for name in JOBS:
        timed, learnt = train(name, STEPS)
        each = []
        for steps in (2, 4):  # what begins and ends a run falls out of the difference
            with counted() as (calls, sizes):
                train(name, steps)
            each.append((calls, sizes))
        (calls, sizes), (more, larger) = each
        found[name] = [
            timed.seconds(), learnt, {k: (more[k] - calls[k]) / 2 for k in more},
            sum(larger.values()) / 2 - sum(sizes.values()) / 2,
        ]  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found))


def main() -> None:
    """The table."""
    print("| step of 16 samples | processes | seconds | calls a step | bytes a step | "
          "of 4 bytes a number learnt |\n|---|---|---|---|---|---|")  # fmt: skip
    rows: dict[str, list[str]] = {name: [] for name in JOBS}
    for world in WORLDS:
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(world)]
        words = [sys.executable, *(launch if world > 1 else []), __file__, "rank"]
        done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
                              capture_output=True)  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads([x for x in done.stdout.splitlines() if x.startswith("{")][-1])
        for name, (seconds, learnt, calls, size) in found.items():
            said = ", ".join(f"{n:g} {call}" for call, n in sorted(calls.items()) if n) or "none"
            rows[name].append(f"| {name} | {world} | {seconds:.3f} | {said} | {size:,.0f} | "
                              f"{size / 4 / learnt:.1%} |")  # fmt: skip
    print("\n".join(row for each in rows.values() for row in each))


if __name__ == "__main__":
    rank() if sys.argv[1:] == ["rank"] else main()
