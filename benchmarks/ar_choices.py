"""What a transformer's positions and orders are worth on scenes: bits per held-out token, prompts
right. Everything else is equal: tokenizer, cache, 600 steps of 64, seed.

    python benchmarks/ar_choices.py DEMO

DEMO is the folder of a demo that has run, for its tokenizer with codes and its cache of tokens.
"""

import sys
from dataclasses import replace
from pathlib import Path

from calotype.autoregressive import Annealed, Sequential, TokenSampling
from calotype.commands.train_generator import train_generator
from calotype.data import LatentCache, Scenes
from calotype.evaluation.scenes import draw, likelihood
from calotype.pipelines import TokenPipeline, load
from calotype.recipes.generators import scenes_ar
from calotype.recipes.transformer import TransformerRecipe
from calotype.training import has_ended

OUT, STEPS = Path("runs/ar-choices"), 600
SAMPLING = TokenSampling(guidance=1.25, temperature=0.5)
"""Of every row, whatever the recipe draws by."""


def recipes(demo: Path) -> dict[str, TransformerRecipe]:
    """By name."""
    base = scenes_ar()
    base = replace(base, tokenizer=str(demo / "codes/model"), cache=demo / "tokens")
    sequential = replace(base.transformer, positions=Sequential())
    return {
        "rows": base,
        "sequential": replace(base, transformer=sequential),
        "rows, random orders until half": replace(base, order=Annealed(STEPS // 4, STEPS // 2)),
    }


def main(demo: Path) -> None:
    """Train what is not there yet, and print the table."""
    print("| positions and order | bits per token | places' frequencies | prompts right of 256 |")
    print("|---|---|---|---|")
    for name, base in recipes(demo).items():
        run = replace(base.run, out=OUT / name.replace(", ", "-").replace(" ", "-"), steps=STEPS,
                      ema=0.99, resume=True)  # fmt: skip
        recipe = replace(base, run=run)
        if not has_ended(run, recipe):
            train_generator(recipe)
        pipeline = load(run.model)
        assert isinstance(pipeline, TokenPipeline)
        held_out = Scenes(size=32, split="held-out", seed=1)
        bits = likelihood(pipeline, LatentCache(recipe.cache), held_out)
        right = draw(pipeline, Scenes(size=32), 256, 0, SAMPLING).checked.all_right
        print(f"| {name} | {bits['bits_per_token']:.3f} | {bits['unigram_bits_per_token']:.3f} | "
              f"{right:.1%} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
