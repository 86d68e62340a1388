"""What the other examples begin with: tokenizers of drawn scenes, trained in less than a minute.

Put a tokenizer of your own in their place: a folder, or a name on the Hub.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import calotype
from calotype.data import Scenes
from calotype.recipes.demo import demo_kl, demo_vq

ROOT = Path("runs/examples")
STEPS = 300


def continuous(root: Path, steps: int = STEPS) -> Path:
    """Folder of a tokenizer with 8x8 latents of 4 channels, an AutoencoderKL of diffusers."""
    return trained(demo_kl(root / "kl", steps))


def with_codes(root: Path, steps: int = STEPS) -> Path:
    """Folder of a tokenizer with 8x8 codes of 256, a VQModel of diffusers."""
    continuous(root, steps)
    return trained(demo_vq(root / "vq", steps, demo_kl(root / "kl", steps)))


def trained(recipe: calotype.TokenizerRecipe) -> Path:
    """The folder that a recipe makes, or has made."""
    if recipe.run.model.exists():
        return recipe.run.model
    run = replace(recipe.run, resume=True)  # where it was stopped
    return calotype.train_tokenizer(replace(recipe, measure=16 + 3 * run.steps, run=run))


def scenes(
    count: int, split: str = "train", shapes: tuple[str, ...] = Scenes.shapes
) -> tuple[Tensor, list[str], Tensor]:
    """So many scenes: images [n 3 32 32] in [-1, 1], their captions, and the number of each one's
    shape.
    """
    drawn = Scenes(split=split, shapes=shapes).build()  # type: ignore[arg-type]
    batch = drawn.batch(range(count))
    labels = [shapes.index(drawn.scene(i).objects[0].shape) for i in range(count)]
    return batch["image"], batch["caption"], torch.tensor(labels)
