"""A tokenizer's training step, LPIPS, PatchGAN and adaptive weight and all, beside the step of
diffusers' train_autoencoderkl.py.

    python benchmarks/tokenizer_step.py fp32
    python benchmarks/tokenizer_step.py bf16

The peer's step is written here after the script: one batch for the autoencoder, then one for the
discriminator, by turns; whatever both players are to learn from has to be read twice. Its LPIPS has
no gradient, which would make it cheaper than the job: here it has one. What costs it is left as it
is: the reconstruction is not detached for the discriminator, so that its loss goes back through the
whole autoencoder; the reconstruction's gradient is taken twice, once at the last layer. Under bf16
the script casts the weights themselves, ours computes in bf16 over float32 weights.

Architecture, images, batch, discriminator, clipping, average and optimiser are the same. An image
counts when both players have learnt from it. Each measurement is a process of its own, turns
alternate; backbones are random, which takes as long as trained ones.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional

from calotype.data import Scenes
from calotype.evaluation.speed import speed
from calotype.tokenizers import Backbone, Critic, Gaussian, ImageTokenizer, Reconstruction
from calotype.tokenizers.terms import L1, Adversary, PatchDiscriminator, PerceptualTerm
from calotype.tokenizers.terms.perceptual import random_backbone
from calotype.training import AdamW, Batch, Run, fit

SIDE, BATCH, STEPS, ROUNDS = 64, 8, 12, 5
BACKBONE = Backbone((64, 128, 256), layers=1, attention=False)
LATENT = Gaussian(channels=4)


def images() -> Tensor:
    """A batch."""
    return Scenes(size=SIDE).build().batch(range(BATCH))["image"]


class Timed:
    """The batch again and again; when it was asked for."""

    def __init__(self) -> None:
        self.image, self.asked = images(), [0.0]

    def batches(self, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """One rank's."""
        self.asked.clear()
        while True:
            self.asked.append(time.perf_counter())
            yield {"image": self.image, "key": list(range(BATCH))}


def ours(precision: Any) -> tuple[float, float]:
    """Seconds for a batch from which both have learnt, and MiB; by `fit`, checkpoints left out."""
    tokenizer = ImageTokenizer(BACKBONE.autoencoder(LATENT, SIDE), LATENT.build())
    terms = {"pixel": (1.0, L1().build()), "lpips": (1.0, lpips())}
    settings = AdamW(1e-4)
    first = Reconstruction(tokenizer, terms, settings)
    players = [first, Critic(Adversary(start=0, effect_start=0), first, settings)]
    loader = Timed()

    def run() -> None:
        with tempfile.TemporaryDirectory() as out:
            run = Run(Path(out), steps=STEPS, precision=precision, log_every=9999,
                      save_every=9999, sample_every=9999)  # fmt: skip
            fit(players, loader, run)

    found = speed(run, torch.device("cpu"), repeats=1)
    gaps = [b - a for a, b in zip(loader.asked, loader.asked[1:], strict=False)]
    return statistics.median(gaps[2:]), found.peak_mib


def lpips() -> PerceptualTerm:
    """Over VGG."""
    return PerceptualTerm(random_backbone("vgg", 0))


class Script:
    """One process of train_autoencoderkl.py, from the batch on."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.vae: Any = BACKBONE.autoencoder(LATENT, SIDE).to(dtype).train()
        self.critic, self.lpips = PatchDiscriminator().to(dtype).train(), lpips().to(dtype)
        self.optimizers = [torch.optim.AdamW(m.parameters(), 1e-4) for m in (self.vae, self.critic)]
        self.average = EMAModel(self.vae.parameters(), decay=0.999)
        self.image = images().to(dtype)

    def pair(self) -> None:
        """A batch for the autoencoder and one for the discriminator."""
        self._autoencoder(*self._rebuild())
        self.average.step(self.vae.parameters())
        self._discriminator(self._rebuild()[1])
        self.average.step(self.vae.parameters())

    def _rebuild(self) -> tuple[Any, Tensor]:
        posterior = self.vae.encode(self.image).latent_dist
        return posterior, self.vae.decode(posterior.sample()).sample

    def _autoencoder(self, posterior: Any, fake: Tensor) -> None:
        pixel = functional.l1_loss(fake.float(), self.image.float(), reduction="none")
        perceptual = self.lpips(fake, self.image).view(-1, 1, 1, 1)
        rebuilt = (pixel + perceptual).sum() / len(fake)
        fooled = -self.critic(fake).mean()
        last = self.vae.decoder.conv_out.weight
        first, second = (
            torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
            for loss in (rebuilt, fooled)
        )
        weight = (first / (second + 1e-4)).clamp(0, 1e4).detach()
        loss = rebuilt + 1e-6 * posterior.kl().sum() / len(fake) + 0.5 * weight * fooled
        self._move(0, loss, self.vae)

    def _discriminator(self, fake: Tensor) -> None:
        real, judged = self.critic(self.image), self.critic(fake)
        loss = 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + judged).mean())
        self._move(1, loss, self.critic)

    def _move(self, player: int, loss: Tensor, module: torch.nn.Module) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        self.optimizers[player].step()
        self.optimizers[player].zero_grad(set_to_none=True)


def peer(precision: str) -> tuple[float, float]:
    """The same of the script."""
    script = Script(torch.bfloat16 if precision == "bf16" else torch.float32)
    found = speed(script.pair, torch.device("cpu"), repeats=STEPS // 2)
    return found.seconds, found.peak_mib


KINDS: dict[str, Callable[[Any], tuple[float, float]]] = {"ours": ours, "peer": peer}


def alone(kind: str, precision: str) -> list[float]:
    """One measurement in a process of its own."""
    words = [sys.executable, __file__, precision, kind]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(precision: str) -> None:
    """The table."""
    print("| precision | images/s, ours | peer | ratio (spread) | MiB, ours | peer |")
    print("|---|---|---|---|---|---|")
    found: dict[str, list[list[float]]] = {"ours": [], "peer": []}
    for turn in range(ROUNDS):
        for kind in sorted(found, reverse=bool(turn % 2)):
            found[kind].append(alone(kind, precision))
    seconds = {kind: [row[0] for row in rows] for kind, rows in found.items()}
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    rates = [BATCH / statistics.median(values) for values in seconds.values()]
    mib = [statistics.median(row[1] for row in rows) for rows in found.values()]
    print(f"| {precision} | {rates[0]:.2f} | {rates[1]:.2f} | {statistics.median(ratios):.2f} "
          f"({min(ratios):.2f} to {max(ratios):.2f}) | {mib[0]:.0f} | {mib[1]:.0f} |")  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    if len(sys.argv) == 3:
        print(json.dumps(KINDS[sys.argv[2]](sys.argv[1])))
    else:
        main(sys.argv[1])
