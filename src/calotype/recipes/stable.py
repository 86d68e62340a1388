"""Recipes of Stable Diffusion's own layout, whose networks other programs take as they are:
diffusers' training scripts, converters to single files, and what reads those (docs/clients.md).
"""

from dataclasses import replace
from pathlib import Path

from calotype.diffusion import Epsilon, PretrainedText, UNet
from calotype.pipelines import Sampling
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.small import small_cache, small_diffusion, small_kl
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.tokenizers import Backbone, Gaussian
from calotype.training import AdamW, Run

UNET = UNet((320, 640, 1280, 1280), (True, True, True, False), layers=2, heads=8)
"""Stable Diffusion 1's."""


def small_kl_f8() -> TokenizerRecipe:
    """Your pictures at 64 pixels to 8x8 latents of 4 channels, by the layout of Stable Diffusion's
    autoencoder; a quarter of the numbers that small-kl keeps, and so much coarser. Needs no
    download. Takes 0.2 GiB in bf16.
    """
    base = small_kl()
    backbone = Backbone(widths=(16, 32, 64, 64), layers=2, groups=8)
    return replace(
        base,
        model=NewTokenizer(backbone, Gaussian(channels=4, kl_weight=1e-4, orthogonal=True)),
        run=replace(base.run, out=Path("runs/small-kl-f8")),
    )  # fmt: skip


def small_f8() -> CacheRecipe:
    """Latents of your captioned pictures at 64 pixels, by small-kl-f8."""
    return replace(
        small_cache(), tokenizer="runs/small-kl-f8/model", out=Path("runs/small-f8-latents")
    )


def small_stable_diffusion() -> GeneratorRecipe:
    """Text to your pictures at 64 pixels, by noise prediction in Stable Diffusion's layout: what
    diffusers' scripts and converters take. Draws no better than small-diffusion and heeds prompts
    later, because that layout knows them by attention alone. Takes 0.4 GiB in bf16.
    """
    base, cached = small_diffusion(), small_f8()
    return replace(
        base, tokenizer=cached.tokenizer, cache=cached.out,
        # A group of one channel would be nothing at the last resolution, of one site.
        unet=replace(UNET, widths=(32, 64, 96, 96), groups=16),
        process=Epsilon(snr_gamma=5.0),
        run=replace(base.run, out=Path("runs/small-stable-diffusion")),
    )  # fmt: skip


def stable_diffusion() -> GeneratorRecipe:
    """Text to image by the network of Stable Diffusion 1 (Rombach et al. 2022; the model card of
    stable-diffusion-v1-1: 237,000 steps of 2048 images at 256 pixels, rate 1e-4 after 10,000), in
    32x32x4 latents of your captioned images. Takes 36 GiB in bf16.
    """
    return GeneratorRecipe(
        "runs/ldm-kl-f8/model", Path("runs/latents"), UNET, Epsilon(), PretrainedText(),
        optimizer=AdamW(lr=1e-4, warmup=10_000, weight_decay=0.01), sampling=Sampling(guidance=7.5),
        run=Run(Path("runs/stable-diffusion"), steps=237_000, batch_size=2048, micro_batch=64,
                ema=0.9999, workers=8, save_every=5000),
    )  # fmt: skip
