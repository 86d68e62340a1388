"""The whole way in half an hour: scenes to a tokenizer, to latents, to text-to-image by diffusion;
to another tokenizer, to tokens, to text-to-image by a transformer; and a gallery that says how much
of either is right.
"""

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import LatentCache, Scenes
from calotype.evaluation.scenes import Drawn, Unseen, evaluate, likelihood
from calotype.pages.gallery import Grid, write_gallery
from calotype.pages.sheet import write_sheet
from calotype.pipelines import TokenPipeline, load
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.caches import scenes_cache, scenes_tokens
from calotype.recipes.discrete import scenes_vq
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.generators import scenes_ar, scenes_diffusion
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.recipes.tokenizers import scenes_kl
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.training import Run, has_ended
from calotype.training.checkpoint import publish, write_text

R = TypeVar("R", TokenizerRecipe, GeneratorRecipe, TransformerRecipe)


@dataclass(frozen=True)
class Demo:
    """Train on procedural scenes, then draw what was never shown. Started again, it continues."""

    out: Path = Path("runs/demo")
    """Folder of everything."""
    tokenizer_steps: int = 1300
    """Optimiser steps of the continuous tokenizer, of 32 scenes."""
    generator_steps: int = 1000
    """Optimiser steps of the diffusion model, of 128 latents."""
    codes_steps: int = 1400
    """Optimiser steps of the tokenizer with codes, of 32 scenes."""
    transformer_steps: int = 1650
    """Optimiser steps of the transformer, of 64 scenes' tokens."""
    scenes: int = 40_000
    """Scenes whose latents the generators are trained on."""
    prompts: int = 256
    """Unseen prompts to draw and check."""
    seed: int = 0
    """Of weights, noise and the order of training; held-out prompts and reconstructions."""

    def __post_init__(self) -> None:
        for name, least in (("tokenizer_steps", 1), ("generator_steps", 1), ("codes_steps", 1),
                            ("transformer_steps", 1), ("scenes", 1), ("prompts", 4),
                            ("seed", 0)):  # fmt: skip
            if (value := getattr(self, name)) < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}: choose {least} or more")


@dataclass(frozen=True)
class Way:
    """From scenes to a pipeline: three recipes, each of what the one before has made."""

    name: str
    tokenizer: TokenizerRecipe
    cache: CacheRecipe
    generator: GeneratorRecipe | TransformerRecipe
    pipeline: Path
    """Where the pipeline ends."""


def demo(options: Demo) -> Path:
    """Run it; returns the gallery page."""
    started, console = time.monotonic(), Console(highlight=False)
    console.print("perceptual backbone: none, so nothing is downloaded")
    ways = both_ways(options)
    for way in ways:
        _travel(way, console)
    report: dict[str, Any] = {}
    grids: list[Grid] = []
    drawn: dict[str, Drawn] = {}
    for way in ways:
        console.print(f"{way.name}: unseen prompts")
        report[way.name], drawn[way.name], pictures = _evaluate(options, way)
        grids += pictures
    report["minutes"] = round((time.monotonic() - started) / 60, 1)
    lines = [*(line for way in ways for line in _lines(way.name, report[way.name])),
             f"{report['minutes']} minutes"]  # fmt: skip
    write_text(options.out / "report.json", json.dumps(report, indent=1) + "\n")
    write_gallery(options.out / "gallery.html", lines, [_side_by_side(drawn), *grids])
    for line in lines:
        console.print(line)
    return options.out / "gallery.html"


def both_ways(options: Demo) -> tuple[Way, Way]:
    """The recipes of the demo: the `scenes` ones, cut to minutes."""
    out = options.out
    kl = _cut(options, scenes_kl(), "tokenizer", options.tokenizer_steps)
    latents = replace(scenes_cache(), tokenizer=str(kl.run.model), out=out / "latents",
                      count=options.scenes)  # fmt: skip
    diffusion = _cut(options, scenes_diffusion(), "generator", options.generator_steps, 0.995)
    diffusion = replace(diffusion, tokenizer=str(kl.run.model), latents=latents.out)
    vq = _cut(options, scenes_vq(), "codes", options.codes_steps)
    tokens = replace(scenes_tokens(), tokenizer=str(vq.run.model), out=out / "tokens",
                     count=options.scenes)  # fmt: skip
    transformer = _cut(options, scenes_ar(), "transformer", options.transformer_steps, 0.995)
    transformer = replace(transformer, tokenizer=str(vq.run.model), latents=tokens.out)
    return (Way("diffusion", kl, latents, diffusion, out / "pipeline"),
            Way("transformer", vq, tokens, transformer, out / "token-pipeline"))  # fmt: skip


def _cut(options: Demo, recipe: R, name: str, steps: int, ema: float | None = None) -> R:
    run: Run = replace(
        recipe.run, out=options.out / name, steps=steps, ema=ema or recipe.run.ema, resume=True,
        seed=options.seed, save_every=250, sample_every=500,
    )  # fmt: skip
    if isinstance(recipe, TokenizerRecipe):
        recipe = replace(recipe, measure=10_000)
    return replace(recipe, run=run)


def _travel(way: Way, console: Console) -> None:
    console.print(f"{way.name}: tokenizer")
    if not _is_there(way.tokenizer, console):
        train_tokenizer(way.tokenizer)
    console.print(f"{way.name}: cache")
    cache(way.cache)
    console.print(f"{way.name}: generator")
    if not _is_there(way.generator, console):
        train_generator(way.generator)
    beside = way.pipeline.with_name(f".{way.pipeline.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(way.generator.run.model, beside)
    publish(beside, way.pipeline)


def _is_there(
    recipe: TokenizerRecipe | GeneratorRecipe | TransformerRecipe, console: Console
) -> bool:
    if not has_ended(recipe.run, recipe):
        return False
    console.print(f"    {recipe.run.model} is there: not trained again")
    return True


def _evaluate(options: Demo, way: Way) -> tuple[dict[str, Any], Drawn, list[Grid]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec, pipeline = way.tokenizer.data, load(way.pipeline).to(device)
    assert isinstance(spec, Scenes)
    unseen = evaluate(
        pipeline, ImageTokenizer.load(way.pipeline), spec, options.prompts, options.seed,
        way.generator.sampling,
    )  # fmt: skip
    report, one = unseen.report, unseen.one
    write_sheet(options.out / f"{way.name}.png", one.images[:32], one.captions[:32])
    if isinstance(pipeline, TokenPipeline):
        held_out = replace(spec, split="held-out", seed=options.seed + 1)
        report = report | likelihood(pipeline, LatentCache(way.cache.out), held_out)
    return report, one, _grids(way.name, unseen)


def _grids(name: str, unseen: Unseen) -> list[Grid]:
    pairs, two = torch.stack(unseen.rebuilt, 1).flatten(0, 1), unseen.two
    return [
        Grid(f"{name}: reconstructions of held-out scenes: original, then decoded",
             pairs[:32], None, None),
        Grid(f"{name}: two objects in a relation: training showed single objects",
             two.images[:16], two.captions, two.checked.verdicts),
    ]  # fmt: skip


def _side_by_side(drawn: dict[str, Drawn], count: int = 32) -> Grid:
    """The same prompts, drawn each way."""
    images = torch.stack([each.images[:count] for each in drawn.values()], 1).flatten(0, 1)
    captions, verdicts = [], []
    for i in range(len(images) // len(drawn)):
        for name, each in drawn.items():
            captions.append(f"{name}: {each.captions[i]}")
            verdicts.append(each.checked.verdicts[i])
    return Grid("unseen prompts, each way", images, captions, verdicts)


def _lines(name: str, report: dict[str, Any]) -> list[str]:
    factors = ", ".join(f"{name} {value:.0%}" for name, value in report["factors_right"].items())
    protocol = report["protocol"]
    sampling = protocol["sampling"]
    solver = (
        f"{protocol['scheduler']} in {sampling['steps']} steps, " if "steps" in sampling else ""
    )
    lines = [
        f"{name}: reconstruction of {report['reconstructed']} held-out scenes, likeliest latents: "
        f"{report['reconstruction_psnr_db']} dB PSNR",
        f"{name}: {report['prompts']} unseen prompts, every factor right: "
        f"{report['all_factors_right']:.1%} ({factors}), {solver}guidance "
        f"{sampling['guidance']}, seed {protocol['seed']}",
        f"{name}: two objects in a relation, every factor right: "
        f"{report['two_objects_all_right']:.1%}",
    ]
    if "bits_per_token" in report:
        lines.append(
            f"{name}: {report['bits_per_token']:.2f} bits per token of held-out scenes; by each "
            f"place's frequencies {report['unigram_bits_per_token']:.2f}"
        )
    return lines
