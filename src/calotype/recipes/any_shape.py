"""Recipes for a folder of pictures of any ratio, of about as many pixels as 64x64."""

from dataclasses import replace
from pathlib import Path

from calotype.data import Buckets, Flip, Transform
from calotype.diffusion import Frames
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.small import SIZE, TEXT, small_cache, small_diffusion, small_kl
from calotype.recipes.tokenizer import TokenizerRecipe

LAYERED = replace(TEXT, layers=2)
"""A pipeline that is told frames attends to the last layer but one."""


def small_any() -> TokenizerRecipe:
    """Your pictures in a few shapes of about 64x64 pixels, so that of one up to twice as long as
    wide an eighth is cropped away at most; small-kl otherwise. Needs no download. Takes 0.2 GiB in
    bf16.
    """
    base = small_kl()
    run = replace(base.run, out=Path("runs/small-any"))
    return replace(base, transform=Transform(Buckets(SIZE), Flip()), run=run)


def small_any_cache() -> CacheRecipe:
    """Latents of your captioned pictures in those shapes, by small-any, and how large each picture
    was and where it was cropped.
    """
    return replace(
        small_cache(), tokenizer="runs/small-any/model", out=Path("runs/small-any-latents"),
        transform=Transform(Buckets(SIZE)), text=LAYERED, frames=True,
    )  # fmt: skip


def small_any_diffusion() -> GeneratorRecipe:
    """Text to your pictures in any of those shapes by diffusion, as small-diffusion, told how large
    pictures were and where they were cropped (Podell et al. 2023, sections 2.2 and 2.3), so that
    what is drawn is whole. A layout of its own in a stock StableDiffusionXLPipeline. Takes 0.4 GiB
    in bf16.
    """
    base, cached = small_diffusion(), small_any_cache()
    return replace(
        base, tokenizer=cached.tokenizer, cache=cached.out, text=LAYERED, frames=Frames(),
        unet=replace(base.unet, pooled_text=False),
        run=replace(base.run, out=Path("runs/small-any-diffusion")),
    )  # fmt: skip
