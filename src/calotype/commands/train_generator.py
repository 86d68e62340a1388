"""Training a generator in a cache: a diffusion model or a transformer."""

from pathlib import Path

from calotype.autoregressive import NextToken
from calotype.commands.finetune import train_on
from calotype.commands.train_denoiser import assemble_denoiser, train_denoiser
from calotype.commands.train_transformer import assemble_transformer, train_transformer
from calotype.data import LatentCache
from calotype.diffusion import Denoising
from calotype.pipelines import Pipeline
from calotype.recipes.finetune import FinetuneRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import ImageTokenizer


def train_generator(recipe: GeneratorRecipe | TransformerRecipe | FinetuneRecipe) -> Path:
    """Train what the recipe is for and save a pipeline; returns its folder, `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    if isinstance(recipe, TransformerRecipe):
        return train_transformer(recipe)
    if isinstance(recipe, FinetuneRecipe):
        return train_on(recipe)
    return train_denoiser(recipe)


def assemble_generator(
    recipe: GeneratorRecipe | TransformerRecipe, latents: LatentCache, tokenizer: ImageTokenizer
) -> tuple[Denoising | NextToken, Pipeline]:
    """What is trained, with fresh weights, and the pipeline around it.

    Raises:
        ValueError: the tokenizer or the prompts do not go with the recipe.
    """
    if isinstance(recipe, TransformerRecipe):
        return assemble_transformer(recipe, latents, tokenizer)
    return assemble_denoiser(recipe, latents, tokenizer)
