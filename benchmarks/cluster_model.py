"""How training would grow over cards that were not at hand: a model of DDP's exchange beside its
compute. Prints the tables of docs/scaling.md.

    python benchmarks/cluster_model.py

What is counted here: parameters, and operations of forward passes, by torch, on tensors without
contents. What is taken from elsewhere is named where it stands. Everything in seconds follows from
these by the formulas beneath, and was not measured.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from calotype.recipes.generators import text_diffusion
from calotype.recipes.tokenizers import ldm_kl_f8
from calotype.tokenizers.terms import Adversary

CARDS = (1, 8, 64, 512)
NODE = 8
"""Cards of a machine."""
BUCKET = 25 * 2**20
"""Bytes that DDP exchanges at a time, its own default."""
LATENCY = 5e-6
"""Seconds that a message takes besides its bytes: assumed."""
UTILISATION = 0.4
"""Part of the peak that a step reaches: assumed, and this project's bar for a GPU."""
BACKWARD = 2 / 3
"""Part of a step beside which DDP exchanges: backward passes take twice the operations."""
KL_F8 = 2856e9
"""Operations of a whole step for an image of 256 pixels, LPIPS and both players: counted by
`scaling.py cost`."""


@dataclass(frozen=True)
class Machine:
    """Eight cards and what joins them; figures of NVIDIA's data sheets."""

    name: str
    peak: float
    """Operations a second, bf16, dense."""
    inside: float
    """Bytes a second from a card to the others of its machine: half of NVLink's, one direction."""
    outside: float
    """Bytes a second from a machine to the others, all of its network cards together."""


MACHINES = (
    Machine("8 x A100, 8 x 200 Gb/s", 312e12, 300e9, 200e9),
    Machine("8 x A100, 100 Gb/s", 312e12, 300e9, 12.5e9),
    Machine("8 x H100, 8 x 400 Gb/s", 989e12, 450e9, 400e9),
)


@dataclass(frozen=True)
class Job:
    """A recipe's step."""

    name: str
    parameters: int
    operations: float
    """Of an image."""
    images: int
    """Of a card and step: what the recipe takes on one card."""


def exchange(size: float, cards: int, machine: Machine) -> float:
    """Seconds of an all-reduce of so many bytes over the slowest link on its way: by a ring, in
    which each card sends 2 (n - 1) / n of them in as many messages (Patarasuk & Yuan 2009), or by
    two trees, in log2 n (Sanders et al. 2009), whichever is sooner, as NCCL chooses.
    """
    if cards == 1:
        return 0.0
    link = machine.inside if cards <= NODE else min(machine.inside, machine.outside)
    ring = 2 * (cards - 1) / cards * size / link + 2 * (cards - 1) * LATENCY
    trees = 2 * size / link + 2 * math.log2(cards) * LATENCY
    return min(ring, trees)


def step(job: Job, cards: int, machine: Machine) -> tuple[float, float, float]:
    """Seconds of compute, of the exchange, and of the part of it that compute does not hide: what
    is longer than the backward pass, and at least the last bucket.
    """
    compute = job.images * job.operations / (machine.peak * UTILISATION)
    size = 4 * job.parameters
    buckets = max(1, round(size / BUCKET))
    one = exchange(size / buckets, cards, machine)
    return compute, buckets * one, max(buckets * one - BACKWARD * compute, one)


def kl_f8() -> Job:
    """ldm-kl-f8: the autoencoder's and the discriminator's gradients."""
    recipe = ldm_kl_f8()
    with torch.device("meta"):
        bottleneck = recipe.model.bottleneck
        autoencoder = recipe.model.backbone.autoencoder(bottleneck, recipe.size)
        critic = (recipe.adversary or Adversary()).build()
    return Job("ldm-kl-f8", _count(autoencoder) + _count(critic), KL_F8, 4)


def diffusion() -> Job:
    """text-diffusion: the UNet's; its text encoder is frozen."""
    recipe, side, width = text_diffusion(), 32, 768
    with torch.device("meta"):
        unet = recipe.unet.conditional(side, 4, width)
        latents, text = torch.empty(1, 4, side, side), torch.empty(1, 77, width)
        with FlopCounterMode(display=False) as counter:
            unet(latents, torch.zeros(1), text)
    return Job("text-diffusion", _count(unet), 3 * counter.get_total_flops(), 64)


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def main() -> None:
    """Print what is counted, and what follows."""
    jobs = [kl_f8(), diffusion()]
    print(
        "| recipe | parameters exchanged, counted | MiB a step | G operations an image, counted |"
    )
    print("|---|---|---|---|")
    for job in jobs:
        millions, size = job.parameters / 1e6, 4 * job.parameters / 2**20
        print(f"| {job.name} | {millions:.1f} million | {size:.0f} | {job.operations / 1e9:.0f} |")
    print(
        "\n| recipe | machines | cards | images a step | compute, s | exchange, s | "
        "waited for, s | images/s | of n single cards | card hours a million images |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for job in jobs:
        for machine in MACHINES:
            for cards in CARDS:
                print(row(job, cards, machine))
    print("\ntext-diffusion's own batch of 256, shared by the cards:\n")
    for machine in MACHINES:
        for cards in (8, 64):
            print(row(replace(jobs[1], images=256 // cards), cards, machine))


def row(job: Job, cards: int, machine: Machine) -> str:
    """Of the table."""
    compute, whole, waited = step(job, cards, machine)
    seconds, images = compute + waited, cards * job.images
    return (f"| {job.name} | {machine.name} | {cards} | {images} | {compute:.3f} | {whole:.3f} | "
            f"{waited:.3f} | {images / seconds:,.0f} | {compute / seconds:.0%} | "
            f"{cards * seconds / images * 1e6 / 3600:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
