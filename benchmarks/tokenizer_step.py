"""A tokenizer's training step, LPIPS, PatchGAN and adaptive weight and all, beside the steps of
diffusers' train_autoencoderkl.py and train_vqgan.py (scripts.py says how they are taken over).

    python benchmarks/tokenizer_step.py

Architecture, images, batch, LPIPS, discriminator, its penalty, clipping, average and optimiser are
the same. An image counts when both learners have learnt from it: the scripts have to read it
twice. Under bf16 all compute by autocast over float32 weights. train_autoencoderkl.py casts the
weights themselves, which makes it cheaper and keeps most of them from ever moving; it is measured
so, too. Each measurement is a process of its own,
turns alternate; LPIPS's backbone is random, which takes as long as a trained one.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from paired import DEVICE, Timed, alone, in_turns, median, ratio
from scripts import KLScript, Script, VQScript
from torch import Tensor

from calotype.data import Scenes
from calotype.evaluation.speed import Peak, speed
from calotype.tokenizers import VQ, Backbone, Critic, Gaussian, ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import BottleneckSpec
from calotype.tokenizers.bottlenecks.codebook import Codebook, CodebookLoss, Uniform
from calotype.tokenizers.terms import L1, L2, R1, Adversary, PerceptualTerm
from calotype.tokenizers.terms.perceptual import random_backbone
from calotype.training import AdamW, Run, fit

SIDE, BATCH, STEPS, ROUNDS = 64, 8, 10, 3
BACKBONE = Backbone((64, 128, 256), layers=1, attention=False)
LATENTS: dict[str, BottleneckSpec] = {
    "kl": Gaussian(channels=4),
    "vq": VQ(Codebook(1024, 4, CodebookLoss(), Uniform(), restart=None)),
}
PIXELS = {"kl": L1(), "vq": L2()}
PENALTIES = {"kl": None, "vq": R1(10.0)}
JOBS = [("kl", "fp32"), ("kl", "bf16"), ("kl", "bf16 weights"), ("vq", "fp32"), ("vq", "bf16")]


def images() -> Tensor:
    """A batch."""
    return Scenes(size=SIDE).build().batch(range(BATCH))["image"]


def lpips() -> PerceptualTerm:
    """Over VGG."""
    return PerceptualTerm(random_backbone("vgg", 0))


def fresh(backbone: Backbone, latent: BottleneckSpec) -> ImageTokenizer:
    """Untrained."""
    return ImageTokenizer(backbone.autoencoder(latent, SIDE), latent.build())


def ours(kind: str, precision: str) -> tuple[float, float]:
    """Seconds for a batch from which both have learnt, and MiB of it all; by `fit`, checkpoints
    left out.
    """
    batch = {"image": images(), "key": [*range(BATCH)]}
    loader = Timed(lambda: itertools.repeat(batch))

    def run() -> None:
        tokenizer, settings = fresh(BACKBONE, LATENTS[kind]), AdamW(1e-4)
        terms = {"pixel": (1.0, PIXELS[kind].build()), "lpips": (1.0, lpips())}
        first = Reconstruction(tokenizer, terms, settings)
        adversary = Adversary(start=0, effect_start=0, regulariser=PENALTIES[kind])
        with tempfile.TemporaryDirectory() as out:
            run = Run(Path(out), steps=STEPS, precision=precision[:4], log_every=9999,  # type: ignore[arg-type]
                      save_every=9999, sample_every=9999)  # fmt: skip
            fit([first, Critic(adversary, first, settings)], loader, run)

    with Peak(DEVICE) as peak:
        run()
    return loader.seconds(), peak.mib


def peer(kind: str, precision: str) -> tuple[float, float]:
    """The same of a script."""
    cast, image = precision == "bf16 weights", images()
    make: type[Script] = {"kl": KLScript, "vq": VQScript}[kind]

    @cache
    def script() -> Script:
        model = fresh(BACKBONE, LATENTS[kind]).export()
        return make(model, lpips(), 1e-4, 0, torch.bfloat16 if cast else torch.float32)

    def pair() -> None:
        for _ in range(2):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
                script().step(image)

    found = speed(pair, DEVICE, repeats=STEPS // 2)
    return found.seconds, found.peak_mib


KINDS: dict[str, Callable[[str, str], tuple[float, float]]] = {"calotype": ours, "script": peer}


def main() -> None:
    """The table."""
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| tokenizer | precision | images/s, calotype | script | ratio (spread) "
          "| MiB, calotype | script |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for job in JOBS:
        found = in_turns([*KINDS], lambda who, job=job: alone(who, *job), ROUNDS)
        a, b = found.values()
        print(f"| {job[0]} | {job[1]} | {BATCH / median(a, 0):.2f} | {BATCH / median(b, 0):.2f} | "
              f"{ratio([r[0] for r in a], [r[0] for r in b])} | {median(a, 1):.0f} | "
              f"{median(b, 1):.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    if len(sys.argv) == 1:
        main()
    else:
        print(json.dumps(KINDS[sys.argv[1]](*sys.argv[2:])))
