"""Vector quantisation beside vector-quantize-pytorch: a step's time and memory, and quality.

    pip install vector-quantize-pytorch==1.32.0
    python benchmarks/vq_peer.py

Same codebook size, dimension, features, decay and threads; each measurement in a process of its
own, peers in turn, medians. Both follow features by averages, straight through.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.data import Loader, Scenes
from calotype.evaluation.codebook import codebook_health
from calotype.tokenizers import VQ, Backbone, ImageTokenizer, Reconstruction, psnr
from calotype.tokenizers.bottlenecks import Discrete, Latent
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, KMeans, Normal, Restart
from calotype.tokenizers.terms import L2
from calotype.training import AdamW, Run, fit

SIZES = ((1024, 8), (4096, 8), (16_384, 8), (16_384, 256))
"""Codes and their channels."""
IMAGES, SIDE, ROUNDS = 32, 16, 5
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


def measure_step(kind: str, size: int, channels: int) -> dict[str, float]:
    """Seconds of a step, and MiB that the process grew by."""
    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = {"ours": ours, "peer": peer}[kind](size, channels)
    seconds = []
    for _ in range(ROUNDS):
        h = torch.randn(IMAGES, channels, SIDE, SIDE, requires_grad=True)
        started = time.perf_counter()
        step(h)
        seconds.append(time.perf_counter() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(seconds[1:]), "mib": grown / 1024}


def measure_quality(kind: str, size: int, channels: int, seed: int = 0) -> dict[str, float]:
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
        run = Run(Path(out), steps=600, seed=seed, ema=None, log_every=600, save_every=600,
                  sample_every=9999)  # fmt: skip
        fit([objective], Loader(Scenes(size=32).build(), 32, seed=seed), run)
    held_out = Scenes(size=32, split="held-out", seed=1).build()
    real = held_out.batch(range(512))["image"]
    fake = torch.cat([tokenizer.reconstruct(x) for x in real.split(64)])
    health = codebook_health(tokenizer, [{"image": x} for x in real.split(64)])
    return {"psnr": psnr(fake, real).mean().item(), "use": health.use,
            "perplexity": health.perplexity}  # fmt: skip


def alone(what: str, kind: str, *numbers: int) -> dict[str, float]:
    """One measurement in a process of its own."""
    words = [sys.executable, __file__, what, kind, *map(str, numbers)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Both tables."""
    print("| codes x channels | seconds, ours | peer | ratio (spread) | MiB, ours | peer |")
    print("|---|---|---|---|---|---|")
    for size, channels in SIZES:
        pairs = []
        for turn in range(3):
            kinds = ("ours", "peer") if turn % 2 == 0 else ("peer", "ours")
            pairs.append({kind: alone("step", kind, size, channels) for kind in kinds})
        ratios = [pair["peer"]["seconds"] / pair["ours"]["seconds"] for pair in pairs]
        a, b = ({n: statistics.median(p[kind][n] for p in pairs) for n in ("seconds", "mib")}
                for kind in ("ours", "peer"))  # fmt: skip
        print(f"| {size} x {channels} | {a['seconds']:.3f} | {b['seconds']:.3f} | "
              f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
              f"{a['mib']:.0f} | {b['mib']:.0f} |", flush=True)  # fmt: skip
    print("\n| 600 steps on scenes, 1024 codes of 4 | seed | PSNR, dB | use | perplexity |")
    print("|---|---|---|---|---|")
    for seed in SEEDS:
        for kind in ("ours", "peer"):
            found = alone("quality", kind, 1024, 4, seed)
            print(f"| {kind} | {seed} | {found['psnr']:.2f} | {found['use']:.0%} | "
                  f"{found['perplexity']:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        measured = {"step": measure_step, "quality": measure_quality}[sys.argv[1]]
        print(json.dumps(measured(sys.argv[2], *map(int, sys.argv[3:]))))
