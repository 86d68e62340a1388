"""What training costs as its sizes grow, beside the operations it takes and the matrix products
that this machine can do.

    python benchmarks/scaling.py cost
    python benchmarks/scaling.py processes

Operations are those of matrix products and convolutions, forward and back, as torch counts them
in the very step that is timed (a multiplication and an addition are two); the machine's peak is the
median product of two 4096-by-4096 matrices in bf16. Every row is bf16 training by `fit`,
in a process of its own. `processes` trains the same global batch by one process and by two, each
with one thread, and by one process with two.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from paired import DEVICE, Timed, alone
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from calotype.autoregressive import Layout, NextToken, Raster, Transformer
from calotype.data import Loader, Scenes
from calotype.evaluation.speed import speed
from calotype.tokenizers import VQ, Backbone, Critic, Gaussian, ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, Normal
from calotype.tokenizers.terms import L1, Adversary, PerceptualTerm
from calotype.tokenizers.terms.perceptual import random_backbone
from calotype.training import AdamW, Batch, Objective, Run, fit
from calotype.training.attention import plain_is_faster

STEPS = 5
ADAMW = AdamW(1e-4)
LDM = (128, 256, 512, 512)
"""Widths of ldm-kl-f8."""


@dataclass(frozen=True)
class Job:
    """One row."""

    learners: Callable[[], list[Objective]]
    batch: Callable[[], Batch]
    images: int


def ldm(side: int, widths: tuple[int, ...], images: int) -> Job:
    """The step of ldm-kl-f8: L1, LPIPS, KL, adaptive adversary."""

    def learners() -> list[Objective]:
        latent = Gaussian(channels=4)
        tokenizer = ImageTokenizer(Backbone(widths).autoencoder(latent, side), latent.build())
        lpips = PerceptualTerm(random_backbone("vgg", 0))
        terms = {"pixel": (1.0, L1().build()), "lpips": (1.0, lpips)}
        first = Reconstruction(tokenizer, terms, ADAMW)
        return [first, Critic(Adversary(start=0, effect_start=0), first, ADAMW)]

    return Job(learners, lambda: pictures(side, images), images)


def vq(codes: int, channels: int = 8, images: int = 4) -> Job:
    """A small VQ tokenizer of 16x16 codes, whose search is what grows."""

    def learners() -> list[Objective]:
        spec = VQ(Codebook(codes, channels, EMA(0.99), Normal(), restart=None))
        autoencoder = Backbone((32, 64, 128), layers=1, attention=False, groups=8)
        tokenizer = ImageTokenizer(autoencoder.autoencoder(spec, 64), spec.build())
        return [Reconstruction(tokenizer, {"pixel": (1.0, L1().build())}, ADAMW)]

    return Job(learners, lambda: pictures(64, images), images)


def transformer(side: int, images: int) -> Job:
    """12 layers of 512 over side x side tokens."""
    layout = Layout(text=1023, codes=512, codebooks=1, height=side, width=side)

    def learners() -> list[Objective]:
        model = Transformer(512, 12, 8).build(layout, 24, 0)
        if plain_is_faster(model.config.max_position_embeddings):  # as the recipe does
            model.set_attn_implementation("eager")
        return [NextToken(model, layout, Raster(), ADAMW)]

    def batch() -> Batch:
        return {
            "packed": torch.randint(512, (images, side, side), dtype=torch.int32),
            "tokens": torch.randint(1000, (images, 24)), "lengths": torch.full((images,), 24),
            "key": [*range(images)],
        }  # fmt: skip

    return Job(learners, batch, images)


def pictures(side: int, images: int) -> Batch:
    """Scenes."""
    image = Scenes(size=side).build().batch(range(images))["image"]
    return {"image": image, "key": [*range(images)]}


JOBS: dict[str, Job] = {
    **{f"ldm-kl-f8, {side} pixels": ldm(side, LDM, images)
       for side, images in ((64, 4), (128, 4), (256, 1))},
    **{f"ldm-kl-f8, 128 pixels, widths x {part}": ldm(128, tuple(int(w * part) for w in LDM), 4)
       for part in (0.25, 0.5)},
    **{f"VQ, 64 pixels, {k} codes": vq(k) for k in (1024, 4096, 16_384, 65_536, 262_144)},
    **{f"transformer, {side * side} tokens": transformer(side, 4) for side in (8, 16, 32)},
}  # fmt: skip


def train(job: Job, out: Path) -> Timed:
    """`fit`, and its loader, which knows the times."""
    batch = job.batch()
    timed = Timed(lambda: itertools.repeat(batch))
    run = Run(out, steps=STEPS, batch_size=job.images, precision="bf16", ema=None,
              log_every=9999, save_every=9999, sample_every=9999)  # fmt: skip
    fit(job.learners(), timed, run)
    return timed


def cost(name: str) -> None:
    """Seconds of a step and its operations."""
    job = JOBS[name]
    with tempfile.TemporaryDirectory() as out:
        seconds = train(job, Path(out) / "timed").seconds()
        # Of fused attention torch would count nothing.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            train(job, Path(out) / "counted")
    print(json.dumps([seconds, counter.get_total_flops() / STEPS]))


def peak(dtype: torch.dtype) -> float:
    """Operations a second of the median of some products of large matrices."""
    a, b = torch.randn(2, 4096, 4096, dtype=dtype, device=DEVICE)
    return 2 * 4096**3 / speed(lambda: a @ b, DEVICE, repeats=8).seconds


def costs() -> None:
    """The table."""
    best = peak(torch.bfloat16)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; bf16 "
          f"{best / 1e9:.0f} G operations/s, fp32 {peak(torch.float32) / 1e9:.0f}\n")  # fmt: skip
    print("| training step | images | seconds | G operations | of the peak |")
    print("|---|---|---|---|---|")
    for name, job in JOBS.items():
        seconds, count = alone("cost", name)
        print(f"| {name} | {job.images} | {seconds:.3f} | {count / 1e9:.0f} | "
              f"{count / seconds / best:.0%} |", flush=True)  # fmt: skip


def rank(images: int) -> None:
    """One process of a run of small tokenizers: prints the seconds of a step."""
    latent = Gaussian(channels=4)
    backbone = Backbone((32, 64, 128), layers=1, attention=False, groups=8)
    tokenizer = ImageTokenizer(backbone.autoencoder(latent, 64), latent.build())
    objective = Reconstruction(tokenizer, {"pixel": (1.0, L1().build())}, ADAMW)
    loader = Loader(Scenes(size=64).build(), images, seed=0)
    position = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def batches() -> Iterator[Batch]:
        return loader.batches(0, *position)

    timed = Timed(batches)
    with tempfile.TemporaryDirectory() as out:
        run = Run(Path(out), steps=20, batch_size=images, ema=None, precision="fp32",
                  log_every=9999, save_every=9999, sample_every=9999)  # fmt: skip
        fit([objective], timed, run)
    if position[0] == 0:
        print(json.dumps([timed.seconds(4)]))


def processes() -> None:
    """The table."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
    print("| processes x threads | images/s, a global batch of 32 |")
    print("|---|---|")
    for count, threads in ((1, 1), (2, 1), (1, 2)):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        words = [*launch, str(count), __file__, "rank", "32"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        (seconds,) = json.loads([x for x in done.stdout.splitlines() if x.startswith("[")][-1])
        print(f"| {count} x {threads} | {32 / seconds:.1f} |", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    match sys.argv[1:]:
        case ["cost"]:
            costs()
        case ["processes"]:
            processes()
        case ["cost", name]:
            cost(name)
        case ["rank", images]:
            rank(int(images))
