"""Training a generator on cached latents beside the step of diffusers' train_text_to_image.py,
which encodes its images anew each time.

    python benchmarks/generator_step.py

The peer's step is written here after the script: images through the frozen autoencoder, captions
through the frozen text encoder, the UNet's answer, its error, clipping, AdamW. Under bf16 the
frozen networks are cast and the UNet computes by autocast, as the script does; EMA is off, as it
is there by default. The peer is given images that are decoded already, captions that are tokens
already, and the same objective; ours reads its cache from disk.

Autoencoder (Stable Diffusion's shape), text encoder, UNet, batch (the script's own 16), precision
and optimiser are the same. Each measurement is a process of its own, turns alternate. What a cache
costs is measured, too: it is paid once.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from paired import DEVICE, Timed, alone, in_turns, median, ratio
from torch import Tensor
from transformers import CLIPTokenizer

from calotype.commands.cache_latents import cache as cache_latents
from calotype.data import LatentCache, Loader, Scenes
from calotype.data.cache.latents import TEXT_TOKENIZER
from calotype.diffusion import (
    Flow,
    LatentSource,
    LearntText,
    TextDenoising,
    UNet,
    attend_plainly,
    tokenize,
)
from calotype.evaluation.speed import Peak, speed
from calotype.recipes.cache import CacheRecipe
from calotype.tokenizers import Backbone, Gaussian, ImageTokenizer
from calotype.training import AdamW, Run, fit
from calotype.training.attention import plain_is_faster

SIDE, BATCH, STEPS, ROUNDS, IMAGES = 256, 16, 6, 3, 32
BACKBONE = Backbone((128, 256, 512, 512))
LATENT = Gaussian(channels=4)
TEXT = LearntText(width=512, layers=6, heads=8, length=77, vocabulary=1000)
UNETS = {
    "small": UNet((64, 128, 256), (False, True, True), layers=1, head_width=32),
    "wide": UNet((160, 320, 640), (False, True, True), layers=2, head_width=32),
}
ADAMW = AdamW(1e-4, weight_decay=1e-2)


def write_cache(root: Path) -> None:
    """A tokenizer and the latents of a few scenes; prints the seconds an image took."""
    tokenizer = ImageTokenizer(BACKBONE.autoencoder(LATENT, SIDE), LATENT.build())
    tokenizer.eval().autoencoder.save_pretrained(root / "tokenizer")
    started = time.perf_counter()
    recipe = CacheRecipe(str(root / "tokenizer"), root / "latents", Scenes(size=SIDE), text=TEXT,
                         count=IMAGES, batch_size=BATCH)  # fmt: skip
    cache_latents(recipe)
    print(json.dumps([(time.perf_counter() - started) / IMAGES]))


def objective(root: Path, size: str) -> TextDenoising:
    """The job of both."""
    torch.manual_seed(0)
    prompts = CLIPTokenizer.from_pretrained(root / "latents" / TEXT_TOKENIZER)
    encoder = TEXT.encoder(prompts).requires_grad_(False).eval()
    unet = UNETS[size].conditional(SIDE // 8, 4, TEXT.width)
    source = LatentSource(LATENT.build(), 1.0)
    return TextDenoising(unet, encoder, tokenize(prompts, [""])[0], source, Flow(), ADAMW)


def ours(root: Path, size: str) -> tuple[float, float]:
    """Seconds of a step of `fit`, and MiB."""
    loader = Loader(LatentCache(root / "latents"), BATCH, seed=0)
    timed = Timed(loader.batches)

    def run() -> None:
        job = objective(root, size)
        if plain_is_faster(UNETS[size].places(SIDE // 8)):  # as the recipe does
            attend_plainly(job.unet)
        with tempfile.TemporaryDirectory() as out:
            run = Run(Path(out), steps=STEPS, batch_size=BATCH, precision="bf16", ema=None,
                      log_every=9999, save_every=9999, sample_every=9999)  # fmt: skip
            fit([job], timed, run)

    with Peak(DEVICE) as peak:
        run()
    return timed.seconds(), peak.mib


class Script:
    """One process of train_text_to_image.py, from the batch on."""

    def __init__(self, root: Path, size: str) -> None:
        job = objective(root, size).to(DEVICE)
        self.unet, self.process = job.unet.train(), job.process
        self.vae: Any = ImageTokenizer.load(str(root / "tokenizer")).autoencoder
        self.vae.requires_grad_(False).to(DEVICE, torch.bfloat16)
        self.text_encoder: Any = job.text_encoder.to(torch.bfloat16)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), 1e-4, weight_decay=1e-2)
        self.images = Scenes(size=SIDE).build().batch(range(BATCH))["image"].to(DEVICE)
        rows = LatentCache(root / "latents").batch([*range(BATCH)], [0] * BATCH)
        self.tokens = rows["tokens"].to(DEVICE)

    def step(self) -> None:
        """One of the script's."""
        latents = self.vae.encode(self.images.bfloat16()).latent_dist.sample()
        latents = latents * self.vae.config.scaling_factor
        noise, hidden = torch.randn_like(latents), self.text_encoder(self.tokens).last_hidden_state
        noised = self.process.noised(latents, noise, torch.rand(BATCH, device=DEVICE))
        with torch.autocast(DEVICE.type, torch.bfloat16):
            answer: Tensor = self.unet(noised.noisy, noised.timestep, hidden).sample
        torch.nn.functional.mse_loss(answer.float(), noised.target.float()).backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def peer(root: Path, size: str) -> tuple[float, float]:
    """The same of the script."""
    script = cache(lambda: Script(root, size))
    found = speed(lambda: script().step(), DEVICE, repeats=STEPS - 3)
    return found.seconds, found.peak_mib


KINDS: dict[str, Callable[[Path, str], tuple[float, float]]] = {"calotype": ours, "script": peer}


def main() -> None:
    """The table."""
    with tempfile.TemporaryDirectory() as folder:
        (each,) = alone("cache", folder)
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; a cache costs "
              f"{each:.2f} s an image, once\n")  # fmt: skip
        print("| UNet | parameters | images/s, calotype | script | ratio (spread) "
              "| MiB, calotype | script |")  # fmt: skip
        print("|---|---|---|---|---|---|---|")
        for size, spec in UNETS.items():
            count = sum(p.numel() for p in spec.conditional(32, 4, TEXT.width).parameters())
            found = in_turns([*KINDS], lambda kind, size=size: alone(kind, folder, size), ROUNDS)
            a, b = found.values()
            print(f"| {size} | {count / 1e6:.0f} M | {BATCH / median(a, 0):.2f} | "
                  f"{BATCH / median(b, 0):.2f} | {ratio([r[0] for r in a], [r[0] for r in b])} | "
                  f"{median(a, 1):.0f} | {median(b, 1):.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["cache", folder]:
            write_cache(Path(folder))
        case [kind, folder, size]:
            print(json.dumps(KINDS[kind](Path(folder), size)))
