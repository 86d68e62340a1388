"""Training a generator in a cache: a diffusion model or a transformer."""

from pathlib import Path

from calotype.commands.train_denoiser import train_denoiser
from calotype.commands.train_transformer import train_transformer
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.transformer import TransformerRecipe


def train_generator(recipe: GeneratorRecipe | TransformerRecipe) -> Path:
    """Train what the recipe is for and save a pipeline; returns its folder, `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    if isinstance(recipe, TransformerRecipe):
        return train_transformer(recipe)
    return train_denoiser(recipe)
