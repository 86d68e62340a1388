"""The full `scenes` recipes, under an hour of two cores: how many unseen prompts they draw right.

    python benchmarks/scenes_full.py

Figures go to report.json. A run that was stopped goes on.
"""

import json
from dataclasses import replace
from pathlib import Path

from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Scenes
from calotype.evaluation.scenes import draw, reconstructions
from calotype.pipelines import load
from calotype.recipes.caches import scenes_cache
from calotype.recipes.generators import scenes_diffusion
from calotype.recipes.tokenizers import scenes_kl
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.training import has_ended
from calotype.training.files import write_text

OUT = Path("runs/scenes-full")


def main() -> None:
    """Train what is not there yet, draw, print."""
    base, drawn_by = scenes_kl(), scenes_diffusion()
    tokenizer = replace(base, run=replace(base.run, out=OUT / "tokenizer", resume=True))
    latents = replace(scenes_cache(), tokenizer=str(tokenizer.run.model), out=OUT / "latents")
    generator = replace(
        drawn_by, tokenizer=latents.tokenizer, cache=latents.out,
        run=replace(drawn_by.run, out=OUT / "generator", resume=True),
    )  # fmt: skip
    if not has_ended(tokenizer.run, tokenizer):
        train_tokenizer(tokenizer)
    cache(latents)
    if not has_ended(generator.run, generator):
        train_generator(generator)
    report = evaluate(tokenizer.run.model, generator.run.model)
    write_text(OUT / "report.json", json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def evaluate(tokenizer: Path, pipeline: Path) -> dict:
    """Reconstruct 512 held-out scenes, draw 256 held-out prompts: the demo's own ones."""
    spec = Scenes(size=32)
    held_out = replace(spec, split="held-out", seed=1)
    real, fake = reconstructions(ImageTokenizer.load(tokenizer), held_out)
    drawn = draw(load(pipeline), spec, 256, 0, scenes_diffusion().sampling).checked
    return {
        "reconstruction_psnr_db": round(psnr(fake, real).mean().item(), 2),
        "all_factors_right": drawn.all_right, "factors_right": drawn.accuracy,
    }  # fmt: skip


if __name__ == "__main__":
    main()
