"""The whole way in a quarter of an hour: scenes to a tokenizer, to latents, to a text-to-image
pipeline, to a gallery that says how much of it is right.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from calotype.data import Scenes, once
from calotype.data.scenes import Scene, held_out_scenes
from calotype.evaluation.alignment import Alignment, alignment
from calotype.pipelines import Pipeline, Sampling, autoencoder, load, sample
from calotype.recipes.gallery import Grid, write_gallery, write_sheet
from calotype.recipes.generator import GeneratorRecipe, train_generator
from calotype.recipes.generators import scenes_cache, scenes_diffusion
from calotype.recipes.latents import CacheRecipe, cache
from calotype.recipes.tokenizer import TokenizerRecipe, train_tokenizer
from calotype.recipes.tokenizers import scenes_kl
from calotype.tokenizers import ImageTokenizer, fingerprint, psnr
from calotype.training import has_ended
from calotype.training.checkpoint import publish, write_text

Images = Float[Tensor, "b 3 S S"]


@dataclass(frozen=True)
class Demo:
    """Train on procedural scenes, then draw what was never shown. Started again, it continues."""

    out: Path = Path("runs/demo")
    """Folder of everything."""
    tokenizer_steps: int = 1500
    """Optimiser steps, of 32 scenes."""
    generator_steps: int = 1000
    """Optimiser steps, of 128 latents."""
    scenes: int = 60_000
    """Scenes whose latents the generator is trained on."""
    prompts: int = 256
    """Unseen prompts to draw and check."""
    seed: int = 0
    """Of weights, noise and the order of training; held-out prompts and reconstructions."""

    def __post_init__(self) -> None:
        for name, least in (("tokenizer_steps", 1), ("generator_steps", 1), ("scenes", 1),
                            ("prompts", 4), ("seed", 0)):  # fmt: skip
            if (value := getattr(self, name)) < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}: choose {least} or more")


def demo(options: Demo) -> Path:
    """Run it; returns the gallery page."""
    started, console = time.monotonic(), Console()
    tokenizer, latents, generator = stages(options)
    console.print("1/4 tokenizer (perceptual backbone: none, so nothing is downloaded)")
    if has_ended(tokenizer.run, tokenizer):
        console.print(f"    {tokenizer.run.model} is there: not trained again")
    else:
        train_tokenizer(tokenizer)
    console.print("2/4 latents")
    cache(latents)
    console.print("3/4 generator")
    if has_ended(generator.run, generator):
        console.print(f"    {generator.run.model} is there: not trained again")
    else:
        train_generator(generator)
    pipeline = _publish(generator.run.model, options.out / "pipeline")
    console.print("4/4 unseen prompts")
    report, grids = _evaluate(options, tokenizer, load(pipeline), generator.sampling)
    report["minutes"] = round((time.monotonic() - started) / 60, 1)
    write_text(options.out / "report.json", json.dumps(report, indent=1) + "\n")
    write_gallery(options.out / "gallery.html", _lines(report), grids)
    for line in _lines(report):
        console.print(line, highlight=False)
    return options.out / "gallery.html"


def stages(options: Demo) -> tuple[TokenizerRecipe, CacheRecipe, GeneratorRecipe]:
    """The three recipes of the demo: the `scenes` ones, cut to minutes."""
    base, cached, trained = scenes_kl(), scenes_cache(), scenes_diffusion()
    run = {"resume": True, "seed": options.seed, "save_every": 250, "sample_every": 500}
    out = options.out
    tokenizer = replace(
        base, run=replace(base.run, out=out / "tokenizer", steps=options.tokenizer_steps, **run)
    )
    latents = replace(cached, tokenizer=str(tokenizer.run.model), out=out / "latents",
                      count=options.scenes)  # fmt: skip
    generator = replace(
        trained, tokenizer=str(tokenizer.run.model), latents=latents.out,
        run=replace(trained.run, out=out / "generator", steps=options.generator_steps,
                    ema=0.995, **run),
    )  # fmt: skip
    return tokenizer, latents, generator


def _publish(model: Path, pipeline: Path) -> Path:
    beside = pipeline.with_name(".pipeline.partial")
    shutil.copytree(model, beside, dirs_exist_ok=True)
    publish(beside, pipeline)
    return pipeline


def _evaluate(
    options: Demo, tokenizer: TokenizerRecipe, pipeline: Pipeline, sampling: Sampling
) -> tuple[dict, list[Grid]]:
    spec = tokenizer.data
    assert isinstance(spec, Scenes)
    held_out = replace(spec, split="held-out", seed=options.seed + 1)
    real, fake = reconstructions(ImageTokenizer.load(options.out / "pipeline"), held_out)
    one = draw(pipeline, spec, options.prompts, options.seed, sampling)
    two = draw(pipeline, replace(spec, objects=2), options.prompts // 4, options.seed, sampling)
    write_sheet(options.out / "gallery.png", one.images[:32], one.captions[:32])
    grids = [
        Grid("Reconstructions of held-out scenes: original, then decoded",
             torch.stack([real, fake], 1).flatten(0, 1)[:32], None, None),
        Grid("Unseen prompts", one.images[:64], one.captions, one.checked.verdicts),
        Grid("Two objects in a relation: the demo trained on single objects",
             two.images[:16], two.captions, two.checked.verdicts),
    ]  # fmt: skip
    report = {
        "reconstruction_psnr_db": round(psnr(fake, real).mean().item(), 2),
        "reconstructed": len(real),
        "prompts": options.prompts, "all_factors_right": one.checked.all_right,
        "factors_right": one.checked.accuracy,
        "two_objects_prompts": options.prompts // 4,
        "two_objects_all_right": two.checked.all_right,
        "protocol": {"sampling": asdict(sampling), "scheduler": type(pipeline.scheduler).__name__,
                     "seed": options.seed, "resolution": spec.size, "split": "held-out",
                     "tokenizer": fingerprint(autoencoder(pipeline))},
    }  # fmt: skip
    return report, grids


@dataclass(frozen=True)
class Drawn:
    """Images of unseen scenes, with what they should show and whether they do."""

    images: Images
    captions: list[str]
    checked: Alignment


def draw(pipeline: Pipeline, spec: Scenes, count: int, seed: int, sampling: Sampling) -> Drawn:
    """Draw and check `count` scenes that training never showed, image i with seed + i."""
    scenes: list[Scene] = held_out_scenes(spec, count, seed)
    rng = np.random.default_rng(seed)
    captions = [scene.caption(rng) for scene in scenes]
    seeds = range(seed, seed + count)
    images = torch.cat(list(sample(pipeline, captions, seeds, sampling)))
    return Drawn(images, captions, alignment(images, scenes))


def reconstructions(
    tokenizer: ImageTokenizer, spec: Scenes, count: int = 512
) -> tuple[Images, Images]:
    """Scenes, and what a tokenizer makes of them by way of the posterior's mean."""
    batches = islice(once(spec.build(), 64), -(-count // 64))
    real = torch.cat([batch["image"] for batch in batches])[:count]
    fake = torch.cat([tokenizer.reconstruct(x) for x in real.split(64)])
    return real, fake.clamp(-1, 1)


def _lines(report: dict) -> list[str]:
    factors = ", ".join(f"{name} {value:.0%}" for name, value in report["factors_right"].items())
    protocol = report["protocol"]
    return [
        f"reconstruction of {report['reconstructed']} held-out scenes, posterior means: "
        f"{report['reconstruction_psnr_db']} dB PSNR",
        f"{report['prompts']} unseen prompts, every factor right: "
        f"{report['all_factors_right']:.1%} ({factors})",
        f"two objects in a relation, every factor right: {report['two_objects_all_right']:.1%}",
        f"drawn by {protocol['scheduler']} in {protocol['sampling']['steps']} steps, guidance "
        f"{protocol['sampling']['guidance']}, seed {protocol['seed']}",
        f"{report['minutes']} minutes",
    ]
