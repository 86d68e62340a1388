"""Recipes of the demo: the `scenes` ones with networks and steps for minutes of two laptop cores.

Each number here was chosen by a measurement that benchmarks/LOG.md tells of.
"""

from dataclasses import replace
from pathlib import Path

from calotype.autoregressive import FromCodes, TokenSampling, Transformer
from calotype.diffusion import Flow, LearntText, UNet, Uniform
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.caches import scenes_cache
from calotype.recipes.discrete import scenes_vq
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.generators import scenes_ar, scenes_diffusion
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.recipes.tokenizers import scenes_kl
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import VQ, Backbone, Gaussian
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, KMeans, Restart
from calotype.training import AdamW

BACKBONE = Backbone(widths=(16, 32, 64), layers=1, attention=False, groups=8)
"""A quarter of the operations of `scenes-kl`, of which nearly all are convolutions."""
TEXT = LearntText(width=192, layers=1, heads=4, length=24, vocabulary=1000)
"""One layer: a second one blurs the words before they are pooled, and the place of a caption may
then go unheeded for a whole run."""


def demo_kl(out: Path, steps: int) -> TokenizerRecipe:
    """Scenes to 8x8 latents of 4 channels, in `steps` of 16 scenes."""
    base = scenes_kl()
    return replace(
        base,
        # As stock layers begin, 2300 steps make 29.4 to 32.8 dB of it, by the seed.
        model=NewTokenizer(BACKBONE, Gaussian(channels=4, kl_weight=1e-4, orthogonal=True)),
        optimizer=AdamW(lr=2e-3, betas=(0.9, 0.99), warmup=50, schedule="cosine"),
        run=replace(base.run, out=out, steps=steps, batch_size=16),
    )  # fmt: skip


def demo_vq(out: Path, steps: int, start: TokenizerRecipe) -> TokenizerRecipe:
    """Scenes to 8x8 codes of 256, in `steps` of 16 scenes. It begins with what another tokenizer of
    the demo has learnt, for which a fifth of that one's time is enough. Of 512 codes, of which it
    rebuilds no better, the transformer draws a third fewer right after as many steps.
    """
    base, codebook = scenes_vq(), Codebook(256, 4, EMA(), KMeans(), Restart())
    return replace(
        base,
        model=NewTokenizer(BACKBONE, VQ(codebook, features=8), start=str(start.run.model)),
        optimizer=AdamW(lr=1e-3, betas=(0.9, 0.99), warmup=20, schedule="cosine"),
        run=replace(base.run, out=out, steps=steps, batch_size=16),
    )  # fmt: skip


def demo_latents(out: Path, tokenizer: TokenizerRecipe, scenes: int) -> CacheRecipe:
    """Latents, or tokens, of so many scenes and of their captions."""
    return replace(
        scenes_cache(), tokenizer=str(tokenizer.run.model), out=out, text=TEXT, count=scenes,
        batch_size=128,
    )  # fmt: skip


def demo_diffusion(out: Path, steps: int, cached: CacheRecipe) -> GeneratorRecipe:
    """Text to latents, in `steps` of 64 of them."""
    base = scenes_diffusion()
    return replace(
        base, tokenizer=cached.tokenizer, cache=cached.out, text=TEXT,
        unet=UNet((32, 64, 128), (False, True, True), layers=1, head_width=32, groups=16,
                  pooled_text=True, resnet_time_scale_shift="scale_shift"),
        # Where an object stands is decided in more than 90 % of noise.
        process=Flow(Uniform(), shift=8.0),
        # By 1.5e-3 it depends on the latents whether the place of a caption is ever heeded.
        optimizer=AdamW(lr=1e-3, betas=(0.9, 0.99), warmup=100, schedule="cosine"),
        run=replace(base.run, out=out, steps=steps, batch_size=64, ema=0.99),
    )  # fmt: skip


def demo_ar(out: Path, steps: int, cached: CacheRecipe) -> TransformerRecipe:
    """Text to tokens, in `steps` of 16 scenes: updates are what so short a run lacks."""
    base = scenes_ar()
    return replace(
        base, tokenizer=cached.tokenizer, cache=cached.out, transformer=Transformer(128, 4, 4),
        init=FromCodes(),
        sampling=TokenSampling(guidance=1.3, temperature=0.2, batch_size=64),
        optimizer=AdamW(lr=2.5e-3, betas=(0.9, 0.95), warmup=150, schedule="cosine"),
        run=replace(base.run, out=out, steps=steps, batch_size=16, ema=0.995),
    )  # fmt: skip
