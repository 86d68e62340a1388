"""Named cache and generator recipes."""

from collections.abc import Callable
from pathlib import Path

from calotype.data import CenterCrop, Folder, Scenes, Transform
from calotype.diffusion import Flow, LearntText, LogitNormal, PretrainedText, UNet, Uniform
from calotype.pipelines import Sampling
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.latents import CacheRecipe
from calotype.training import AdamW, Run

SCENES_TEXT = LearntText(width=128, layers=2, heads=4, length=24, vocabulary=1000)


def scenes_cache() -> CacheRecipe:
    """Latents of 32-pixel scenes and their captions, by the scenes-kl tokenizer."""
    return CacheRecipe(
        "runs/scenes-kl/model", Path("runs/scenes-latents"), Scenes(size=32),
        text=SCENES_TEXT, count=100_000,
    )  # fmt: skip


def folder_cache() -> CacheRecipe:
    """Latents of your captioned images, 256 pixels a side, with their captions."""
    return CacheRecipe(
        "runs/ldm-kl-f8/model", Path("runs/latents"), Folder(Path("images")),
        Transform(CenterCrop(256)), PretrainedText(), workers=8,
    )  # fmt: skip


def scenes_diffusion() -> GeneratorRecipe:
    """Text to 32-pixel scenes, text encoder and all from scratch."""
    return GeneratorRecipe(
        "runs/scenes-kl/model", Path("runs/scenes-latents"),
        # With attention alone the caption's place went unheeded for a thousand steps.
        UNet((64, 128, 192), (False, True, True), layers=1, head_width=32, pooled_text=True,
             resnet_time_scale_shift="scale_shift"),
        # So plain an image is legible in 90 % noise, where the middle-heavy default hardly looks:
        # trained by it, the model drew all but never learnt to heed the caption's place.
        process=Flow(Uniform(), shift=3.0),
        text=SCENES_TEXT, sampling=Sampling(steps=20, guidance=1.5),
        optimizer=AdamW(lr=1.5e-3, betas=(0.9, 0.99), warmup=100, schedule="cosine"),
        run=Run(Path("runs/scenes-diffusion"), steps=4_000, batch_size=128, ema=0.998,
                precision="bf16"),
    )  # fmt: skip


def text_diffusion() -> GeneratorRecipe:
    """Text to image in 32x32x4 latents of your captioned images, by flow matching; 320 to 1280
    channels, as LDM's text-to-image UNet (Rombach et al. 2022, table 15), with heads of 40.
    """
    return GeneratorRecipe(
        "runs/ldm-kl-f8/model", Path("runs/latents"), UNet(),
        Flow(LogitNormal()), PretrainedText(),
        optimizer=AdamW(lr=1e-4, warmup=10_000, weight_decay=0.01),
        run=Run(Path("runs/text-diffusion"), steps=400_000, batch_size=64, accumulate=4,
                ema=0.9999, precision="bf16", workers=8, save_every=5000),
    )  # fmt: skip


def unconditional_diffusion() -> GeneratorRecipe:
    """Images like yours, without a prompt, in 32x32x4 latents; an LDMPipeline."""
    return GeneratorRecipe(
        "runs/ldm-kl-f8/model", Path("runs/latents"),
        UNet((224, 448, 672), (False, True, True), head_width=32),
        text=None,
        optimizer=AdamW(lr=1e-4, warmup=1000),
        run=Run(Path("runs/unconditional-diffusion"), steps=400_000, batch_size=64, ema=0.9999,
                precision="bf16", workers=8, save_every=5000),
    )  # fmt: skip


CACHES: dict[str, Callable[[], CacheRecipe]] = {
    "scenes": scenes_cache,
    "folder": folder_cache,
}

GENERATORS: dict[str, Callable[[], GeneratorRecipe]] = {
    "scenes-diffusion": scenes_diffusion,
    "text-diffusion": text_diffusion,
    "unconditional-diffusion": unconditional_diffusion,
}
