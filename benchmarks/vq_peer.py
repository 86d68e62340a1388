"""Vector quantisation beside vector-quantize-pytorch: a step's time and memory, and quality.

    python benchmarks/vq_peer.py steps
    python benchmarks/vq_peer.py quality

Same codebook size, dimension, features, decay and threads; each measurement in a process of its
own, peers in turn, medians. Both follow features by averages, straight through.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from paired import alone, in_turns, median, ratio
from torch import Tensor

from calotype.data import Loader, Scenes
from calotype.evaluation.codebook import codebook_health
from calotype.tokenizers import VQ, Backbone, ImageTokenizer, Reconstruction, psnr
from calotype.tokenizers.bottlenecks import Discrete, Latent
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, KMeans, Normal, Restart
from calotype.tokenizers.terms import L2
from calotype.training import AdamW, Run, fit

SIZES = (
    (1024, 8, 32), (4096, 8, 32), (16_384, 8, 32), (16_384, 256, 32), (65_536, 8, 8),
    (262_144, 8, 2),
)  # fmt: skip
"""Codes, their channels, and images: of the largest fewer, or the peer would need 49 GiB."""
SIDE, STEPS, ROUNDS = 16, 5, 3
SEEDS = (0, 1, 2, 3, 4)
"""Of the trainings: one seed says little, runs of either kind differ by decibels."""


def ours(size: int, channels: int) -> Callable[[Tensor], Tensor]:
    """A step of calotype's quantiser, up to the loss."""
    spec = VQ(Codebook(size, channels, EMA(0.99), Normal(), restart=None))
    bottleneck = spec.build().train()

    def step(h: Tensor) -> Tensor:
        latent = bottleneck(h)
        (latent.z.square().mean() + latent.penalties["commitment"].mean()).backward()
        bottleneck.step_end()
        return latent.z

    return step


def peer(size: int, channels: int) -> Callable[[Tensor], Tensor]:
    """A step of vector-quantize-pytorch's, up to the loss."""
    bottleneck = _peer(size, channels).train()

    def step(h: Tensor) -> Tensor:
        z, _, loss = bottleneck(h)
        (z.square().mean() + loss).backward()
        return z

    return step


def _peer(size: int, channels: int, **options: Any) -> Any:
    from vector_quantize_pytorch import VectorQuantize

    return VectorQuantize(
        dim=channels, codebook_size=size, decay=0.99, commitment_weight=0.25,
        accept_image_fmap=True, rotation_trick=False, **options,
    )  # fmt: skip


class PeerBottleneck(Discrete):
    """vector-quantize-pytorch's quantiser in our waist."""

    def __init__(self, size: int, channels: int, **options: Any) -> None:
        super().__init__(channels, size)
        self.inner = _peer(size, channels, **options)

    def forward(self, h: Tensor, generator: Any = None) -> Latent:
        """Its own forward pass; its loss is a mean over the batch already."""
        z, ids, loss = self.inner(h.float())
        self.observe(ids)
        return Latent(z, ids, penalties={"commitment": loss.reshape(1).expand(len(h))})

    def find(self, x: Tensor) -> Tensor:
        """Its ids."""
        return self.inner(x)[1]

    def embed(self, ids: Tensor) -> Tensor:
        """Its codes."""
        return self.inner.get_codes_from_indices(ids)


def measure_step(kind: str, size: int, channels: int, images: int) -> list[float]:
    """Seconds of a step, and MiB that the process grew by."""
    import vector_quantize_pytorch  # noqa: F401  (not to be counted)

    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = {"ours": ours, "peer": peer}[kind](size, channels)
    seconds = []
    for _ in range(STEPS):
        h = torch.randn(images, channels, SIDE, SIDE, requires_grad=True)
        started = time.perf_counter()
        step(h)
        seconds.append(time.perf_counter() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return [statistics.median(seconds[1:]), grown / 1024]


def measure_quality(kind: str, size: int, channels: int, seed: int = 0) -> list[float]:
    """PSNR and use on scenes that training did not draw, after 600 steps of 32, the learning rate
    falling to zero: at a constant one the last step decides by 4 dB.
    """
    torch.manual_seed(seed)
    spec = VQ(Codebook(size, channels, EMA(0.99), KMeans(), Restart()))
    backbone = Backbone((32, 64, 128), layers=1, attention=False, groups=8)
    autoencoder, bottleneck = backbone.autoencoder(spec, 32), spec.build()
    if kind == "peer":
        # As often as ours by a tenth of an even share: 32 images of 64 sites choose in a step.
        dead = 0.1 * 32 * 64 / size
        bottleneck = PeerBottleneck(size, channels, kmeans_init=True, threshold_ema_dead_code=dead)
    tokenizer = ImageTokenizer(autoencoder, bottleneck)
    optimizer = AdamW(1e-3, warmup=50, schedule="cosine")
    objective = Reconstruction(tokenizer, {"pixel": (1.0, L2().build())}, optimizer)
    with tempfile.TemporaryDirectory() as out:
        run = Run(Path(out), steps=600, seed=seed, ema=None, precision="fp32",
                  log_every=600, save_every=600, sample_every=9999)  # fmt: skip
        fit([objective], Loader(Scenes(size=32).build(), 32, seed=seed), run)
    held_out = Scenes(size=32, split="held-out", seed=1).build()
    real = held_out.batch(range(512))["image"]
    fake = torch.cat([tokenizer.reconstruct(x) for x in real.split(64)])
    health = codebook_health(tokenizer, [{"image": x} for x in real.split(64)])
    return [psnr(fake, real).mean().item(), health.use, health.perplexity]


def steps() -> None:
    """The table of time and memory."""
    print("| codes x channels | images | seconds, ours | peer | ratio (spread) "
          "| MiB, ours | peer |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for job in SIZES:
        words = [str(number) for number in job]
        a, b = in_turns(("ours", "peer"), lambda k, w=words: alone("step", k, *w), ROUNDS).values()
        print(f"| {job[0]} x {job[1]} | {job[2]} | {median(a, 0):.3f} | {median(b, 0):.3f} | "
              f"{ratio([r[0] for r in a], [r[0] for r in b])} | {median(a, 1):.0f} | "
              f"{median(b, 1):.0f} |", flush=True)  # fmt: skip


def quality() -> None:
    """The table of quality."""
    print("| 600 steps on scenes, 1024 codes of 4 | seed | PSNR, dB | use | perplexity |")
    print("|---|---|---|---|---|")
    for seed in SEEDS:
        for kind in ("ours", "peer"):
            decibels, use, perplexity = alone("quality", kind, "1024", "4", str(seed))
            print(f"| {kind} | {seed} | {decibels:.2f} | {use:.0%} | {perplexity:.0f} |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 2:
        {"steps": steps, "quality": quality}[sys.argv[1]]()
    else:
        measured = {"step": measure_step, "quality": measure_quality}[sys.argv[1]]
        print(json.dumps(measured(sys.argv[2], *map(int, sys.argv[3:]))))
