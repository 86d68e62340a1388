"""Another person's VAE, an AutoencoderKL in a folder of diffusers, whose decoder is trained on
pictures of your own while its latents stay what they are.

    python examples/finetune_decoder.py

ends in runs/examples/decoder.png: rings, hearts and stars, which it had never seen, before and
after.
"""

from dataclasses import replace
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKL
from prepared import ROOT, STEPS, continuous, scenes, trained

import calotype
from calotype.data import Scenes
from calotype.pages.sheet import write_sheet
from calotype.recipes.demo import demo_kl
from calotype.recipes.tokenizer import PretrainedDecoder
from calotype.tokenizers import psnr
from calotype.training import AdamW

NEW = ("ring", "heart", "star")


def finetuned(root: Path, steps: int) -> Path:
    """Folder of the VAE with its new decoder."""
    theirs = root / "their-vae"
    # In the place of a download: stabilityai/sd-vae-ft-mse would do.
    AutoencoderKL.from_pretrained(continuous(root, steps)).save_pretrained(theirs)
    recipe = replace(
        demo_kl(root / "decoder", steps),
        data=Scenes(shapes=NEW), model=PretrainedDecoder(str(theirs)),
        optimizer=AdamW(lr=1e-3, betas=(0.9, 0.99), warmup=20, schedule="cosine"),
    )  # fmt: skip
    return trained(recipe)


def main(root: Path = ROOT, steps: int = STEPS) -> Path:
    """Train it, if it is not there, and show it."""
    after = calotype.load(finetuned(root, steps)).eval()
    before = calotype.load(root / "their-vae").eval()
    images, _, _ = scenes(64, "held-out", NEW)
    with torch.no_grad():
        assert torch.equal(before.latents(images), after.latents(images))
    decoded = [tokenizer.reconstruct(images) for tokenizer in (before, after)]
    values = [psnr(each.clamp(-1, 1), images).mean().item() for each in decoded]
    print(f"PSNR {values[0]:.2f} dB before, {values[1]:.2f} dB after, in the same latents")
    shown = torch.cat([part[:6] for part in (images, *decoded)])
    names = ["original", f"before, {values[0]:.1f} dB", f"after, {values[1]:.1f} dB"]
    captions = [name for name in names for _ in range(6)]
    write_sheet(root / "decoder.png", shown, captions, columns=6, side=128)
    return root / "decoder.png"


if __name__ == "__main__":
    tyro.cli(main)
