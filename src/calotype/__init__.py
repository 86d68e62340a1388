"""Train image tokenizers, and the generators that live in their latents.

What stands here is meant for use from Python; docs/reuse.md shows it. Each is imported when it is
first asked for.

- `load(path)`: a tokenizer or a pipeline, from a folder, a file or the Hub.
- `ImageTokenizer`: images [b 3 H W] in [-1, 1] to latents or codes and back.
- `train_tokenizer(TokenizerRecipe(...))`, `cache_latents(CacheRecipe(...))`,
  `train_generator(GeneratorRecipe(...))` or of a `TransformerRecipe` or `FinetuneRecipe`,
  `distil_decoder(DistilRecipe(...))`: each returns the folder that it wrote.
- `evaluate(Evaluate(artifact=...))`: the file of figures that it wrote.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calotype.commands.cache_latents import cache as cache_latents
    from calotype.commands.distil_decoder import distil_decoder
    from calotype.commands.evaluate import Evaluate, evaluate
    from calotype.commands.train_generator import train_generator
    from calotype.commands.train_tokenizer import train_tokenizer
    from calotype.pipelines.anything import load
    from calotype.recipes.cache import CacheRecipe
    from calotype.recipes.distil import DistilRecipe
    from calotype.recipes.finetune import FinetuneRecipe
    from calotype.recipes.generator import GeneratorRecipe
    from calotype.recipes.tokenizer import TokenizerRecipe
    from calotype.recipes.transformer import TransformerRecipe
    from calotype.tokenizers import ImageTokenizer, Tiling

__version__ = "0.1.0"

__all__ = [
    "CacheRecipe",
    "DistilRecipe",
    "Evaluate",
    "FinetuneRecipe",
    "GeneratorRecipe",
    "ImageTokenizer",
    "Tiling",
    "TokenizerRecipe",
    "TransformerRecipe",
    "cache_latents",
    "distil_decoder",
    "evaluate",
    "load",
    "train_generator",
    "train_tokenizer",
]

_FROM = {
    "CacheRecipe": "recipes.cache",
    "DistilRecipe": "recipes.distil",
    "Evaluate": "commands.evaluate",
    "FinetuneRecipe": "recipes.finetune",
    "GeneratorRecipe": "recipes.generator",
    "ImageTokenizer": "tokenizers",
    "Tiling": "tokenizers",
    "TokenizerRecipe": "recipes.tokenizer",
    "TransformerRecipe": "recipes.transformer",
    "cache_latents": "commands.cache_latents",
    "distil_decoder": "commands.distil_decoder",
    "evaluate": "commands.evaluate",
    "load": "pipelines.anything",
    "train_generator": "commands.train_generator",
    "train_tokenizer": "commands.train_tokenizer",
}
_CALLED = {"cache_latents": "cache"}
"""What has another name where it is from."""


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), _CALLED.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
