"""Named cache recipes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from calotype.autoregressive import Classes
from calotype.data import CenterCrop, Folder, Scenes, Transform
from calotype.diffusion import LearntText, PretrainedText
from calotype.recipes.any_shape import small_any_cache
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.small import small_cache, small_plain, small_tokens
from calotype.recipes.stable import small_f8

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


def scenes_tokens() -> CacheRecipe:
    """Tokens of 32-pixel scenes and of their captions, by the scenes-vq tokenizer."""
    return replace(scenes_cache(), tokenizer="runs/scenes-vq/model", out=Path("runs/scenes-tokens"))


def folder_tokens() -> CacheRecipe:
    """Tokens of your captioned images, 256 pixels a side, and of their captions, by byte-pair
    encoding learnt from them (Ramesh et al. 2021: 16,384 tokens, prompts of 256).
    """
    return CacheRecipe(
        "runs/vqgan-f16/model", Path("runs/tokens"), Folder(Path("images")),
        Transform(CenterCrop(256)), LearntText(length=256, vocabulary=16_384), workers=8,
    )  # fmt: skip


def class_tokens() -> CacheRecipe:
    """Tokens of images in folders named after their class, 256 pixels a side, and their mirror
    images; each class is one token, which is the whole prompt.
    """
    return replace(
        folder_tokens(), tokenizer="runs/llamagen-vq-f16/model", out=Path("runs/class-tokens"),
        text=Classes(), flipped=True,
    )  # fmt: skip


CACHES: dict[str, Callable[[], CacheRecipe]] = {
    "small": small_cache,
    "small-plain": small_plain,
    "small-any": small_any_cache,
    "small-tokens": small_tokens,
    "small-f8": small_f8,
    "scenes": scenes_cache,
    "scenes-tokens": scenes_tokens,
    "folder": folder_cache,
    "folder-tokens": folder_tokens,
    "class-tokens": class_tokens,
}
