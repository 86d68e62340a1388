"""The whole way in minutes: scenes to a tokenizer, to latents, to text-to-image by diffusion;
to another tokenizer, to tokens, to text-to-image by a transformer; and a gallery that says how much
of either is right.
"""

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from calotype.commands.cache_latents import cache
from calotype.commands.journey import Journey, Part, last_step, spoken
from calotype.commands.timing import Speed, measure
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import LatentCache, Scenes
from calotype.data.latents import is_finished
from calotype.data.scenes import held_out_scenes
from calotype.evaluation.scenes import Drawn, Unseen, evaluate, likelihood
from calotype.pages.gallery import PAIR, Grid, Training
from calotype.pages.sheet import write_sheet
from calotype.pipelines import TokenPipeline, load
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.demo import demo_ar, demo_diffusion, demo_kl, demo_latents, demo_vq
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.training import Run, has_ended
from calotype.training.checkpoint import publish, write_text
from calotype.training.devices import device_named

R = TypeVar("R", TokenizerRecipe, GeneratorRecipe, TransformerRecipe)
Named = Literal["full", "small"]


@dataclass(frozen=True)
class Size:
    """How long the demo trains, and what that reaches."""

    out: Path
    """Folder of everything, unless another is asked for."""
    tokenizer_steps: int
    """Of the continuous tokenizer, of 16 scenes."""
    generator_steps: int
    """Of the diffusion model, of 64 latents."""
    codes_steps: int
    """Of the tokenizer with codes, of 16 scenes."""
    transformer_steps: int
    """Of the transformer, of 16 scenes' tokens."""
    measure: int
    """Scenes on which the latents' statistics are measured, twice."""
    scenes: int
    """Whose latents the generators are trained on."""
    prompts: int
    """Unseen ones that are drawn and checked."""
    reaches: str | None
    """What was measured at this size, as it is offered; None: nothing yet."""


SIZES: dict[Named, Size] = {
    "full": Size(Path("runs/demo"), 2300, 1500, 400, 5200, 4_000, 20_000, 256, None),
    "small": Size(Path("runs/demo-small"), 1200, 700, 250, 1500, 4_000, 10_000, 64, None),
}  # fmt: skip
"""What the sizes of the demo are."""
TOO_LONG = 40 * 60
"""Seconds beyond which a smaller demo is offered."""
EVERY = (50, 250, 200)
"""Steps between lines of metrics, checkpoints and pictures."""
DRAWINGS = 10
"""Pictures that a generator draws while it trains, besides the first after 50 steps."""
SHOWN = 16
"""Unseen prompts that the generators draw while they train."""


@dataclass(frozen=True)
class Demo:
    """Train on procedural scenes, then draw what was never shown. Started again, it continues."""

    size: Named = "full"
    """small: on a machine where the full one would take too long. Numbers below that are not given
    are the size's."""
    out: Path | None = None
    """Folder of everything; None: runs/demo, of the small one runs/demo-small."""
    tokenizer_steps: int | None = None
    """Optimiser steps of the continuous tokenizer, of 16 scenes."""
    generator_steps: int | None = None
    """Optimiser steps of the diffusion model, of 64 latents."""
    codes_steps: int | None = None
    """Optimiser steps of the tokenizer with codes, of 16 scenes."""
    transformer_steps: int | None = None
    """Optimiser steps of the transformer, of 16 scenes' tokens."""
    scenes: int | None = None
    """Scenes whose latents the generators are trained on."""
    prompts: int | None = None
    """Unseen prompts to draw and check."""
    seed: int = 0
    """Of weights, noise and the order of training; held-out prompts and reconstructions."""

    def __post_init__(self) -> None:
        for name, least in (("tokenizer_steps", 1), ("generator_steps", 1), ("codes_steps", 1),
                            ("transformer_steps", 1), ("scenes", 1), ("prompts", 4),
                            ("seed", 0)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}: choose {least} or more")

    def sized(self) -> Size:
        """The size, and what was chosen otherwise."""
        chosen = {name: value for name in vars(SIZES[self.size])
                  if (value := getattr(self, name, None)) is not None}  # fmt: skip
        return replace(SIZES[self.size], **chosen)


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
    size, ways = options.sized(), both_ways(options)
    page = size.out / "gallery.html"
    parts = [Part(MEASURING), *(part for way in ways for part in _parts(way))]
    with Journey(page, "calotype demo", parts, _trainings(ways)) as journey:
        journey.say(f"{page} shows what there is so far; open it at any time")
        with journey.part(MEASURING):
            total = sum(_expect(journey, size, way) for way in ways)
        _say_how_long(journey, options, total)
        report: dict[str, Any] = {}
        drawn: dict[str, Drawn] = {}
        for way in ways:
            _travel(way, journey)
            with journey.part(f"{way.name}: unseen prompts"):
                report[way.name], drawn[way.name], grids = _evaluate(size, options.seed, way)
                journey.lines += _lines(way.name, report[way.name])
                journey.show(*grids)
        report["minutes"] = round(journey.gone / 60, 1)
        write_text(size.out / "report.json", json.dumps(report, indent=1) + "\n")
        journey.lines.append(f"{report['minutes']} minutes")
        journey.grids.insert(0, _side_by_side(drawn))
    for line in journey.lines:
        journey.say(line)
    return page


MEASURING = "measuring this machine"


def _parts(way: Way) -> list[Part]:
    names = (f"{way.name}: {what}" for what in ("tokenizer", "cache", "generator"))
    tokenizer, cached, generator = names
    return [
        Part(tokenizer, run=way.tokenizer.run, resumes=True),
        Part(cached, resumes=True),
        Part(generator, run=way.generator.run, resumes=True),
        Part(f"{way.name}: unseen prompts"),
    ]


def _trainings(ways: tuple[Way, Way]) -> list[Training]:
    found = []
    for way in ways:
        spec = way.tokenizer.data
        assert isinstance(spec, Scenes)
        out, said = way.generator.run.out, way.generator.prompts
        found += [
            Training(f"{way.name}: unseen prompts, while it trains", out, spec.size, said),
            Training(
                f"{way.name}: tokenizer",
                way.tokenizer.run.out,
                spec.size,
                PAIR * way.tokenizer.examples,
                pairs=True,
            ),
        ]
    return found


def _speed(way: Way) -> Speed:
    tokenizer = way.tokenizer
    assert isinstance(tokenizer.model, NewTokenizer)
    # What it begins with may not be there yet, and weights make no step faster.
    fresh = replace(tokenizer, model=replace(tokenizer.model, start=None))
    return measure(fresh, way.cache, way.generator)


def _expect(journey: Journey, size: Size, way: Way) -> float:
    """Say how long each part of a way takes that is still to do; returns the sum."""
    tokenizer, cached, generator, unseen = _parts(way)
    ended = {
        tokenizer.name: has_ended(way.tokenizer.run, way.tokenizer),
        cached.name: is_finished(way.cache.out),
        generator.name: has_ended(way.generator.run, way.generator),
    }
    if all(ended.values()):
        seconds = (0.0, 0.0, 0.0, journey.took.get(unseen.name, 0.0))
    else:
        seconds = _seconds(size, way, _speed(way))
    for part, each in zip(_parts(way), seconds, strict=True):
        journey.parts[part.name].seconds = 0.0 if ended.get(part.name) else each
    return sum(journey.parts[part.name].seconds or 0.0 for part in _parts(way))


def _seconds(size: Size, way: Way, speed: Speed) -> tuple[float, float, float, float]:
    """Of tokenizer, cache, generator and drawing, from where they stand."""

    def steps(run: Run) -> int:
        return max(0, run.steps - last_step(run))

    measured = 2 * way.tokenizer.measure * speed.encoded
    pictures = way.generator.run.steps / way.generator.run.sample_every * SHOWN * speed.drawn
    return (
        steps(way.tokenizer.run) * speed.tokenizer_step + measured,
        size.scenes * speed.encoded,
        steps(way.generator.run) * speed.generator_step + pictures,
        1.25 * size.prompts * speed.drawn + 2 * 512 * speed.encoded,
    )


def _say_how_long(journey: Journey, options: Demo, total: float) -> None:
    for part in journey.parts.values():
        if part.seconds is not None and not part.done:
            journey.say(f"    {part.name}: about {spoken(part.seconds)}")
    journey.say(f"about {spoken(total)} on this machine, all together")
    if total > TOO_LONG and options.size != "small":
        journey.say(_offer(Demo("small", seed=options.seed)))


def _offer(small: Demo) -> str:
    size, seconds = small.sized(), 0.0
    for way in both_ways(small):
        seconds += sum(_seconds(size, way, _speed(way)))
    reaches = f" and reaches {size.reaches}" if size.reaches else ""
    return (f"That is long. `calotype demo --size small` takes about {spoken(seconds)}{reaches}; "
            "to take it, press Ctrl-C now.")  # fmt: skip


def both_ways(options: Demo) -> tuple[Way, Way]:
    """The recipes of the demo, each of what the one before it makes."""
    size, out = options.sized(), options.sized().out
    cut = partial(_cut, size, options.seed)
    kl = cut(demo_kl(out / "tokenizer", size.tokenizer_steps))
    latents = demo_latents(out / "latents", kl, size.scenes)
    diffusion = cut(demo_diffusion(out / "generator", size.generator_steps, latents))
    vq = cut(demo_vq(out / "codes", size.codes_steps, kl))
    tokens = demo_latents(out / "tokens", vq, size.scenes)
    transformer = cut(demo_ar(out / "transformer", size.transformer_steps, tokens))
    return (
        Way("diffusion", kl, latents, _drawing(diffusion, kl), out / "pipeline"),
        Way("transformer", vq, tokens, _drawing(transformer, vq), out / "token-pipeline"),
    )


def _cut(size: Size, seed: int, recipe: R) -> R:
    log, save, sample = EVERY
    run: Run = replace(recipe.run, resume=True, seed=seed, log_every=log, save_every=save,
                       sample_every=sample)  # fmt: skip
    if isinstance(recipe, TokenizerRecipe):
        recipe = replace(recipe, measure=size.measure)
    return replace(recipe, run=run)


def _drawing(
    recipe: GeneratorRecipe | TransformerRecipe, tokenizer: TokenizerRecipe
) -> GeneratorRecipe | TransformerRecipe:
    """Let it draw prompts of the kind that training never shows, early and often."""
    assert isinstance(tokenizer.data, Scenes)
    seed = recipe.run.seed
    rng = np.random.default_rng(seed)
    prompts = [scene.caption(rng) for scene in held_out_scenes(tokenizer.data, SHOWN, seed)]
    run = replace(recipe.run, sample_every=-(-recipe.run.steps // DRAWINGS))
    return replace(recipe, prompts=tuple(prompts), run=run)


def _travel(way: Way, journey: Journey) -> None:
    with journey.part(f"{way.name}: tokenizer"):
        if not _is_there(way.tokenizer, journey):
            train_tokenizer(way.tokenizer)
    with journey.part(f"{way.name}: cache"):
        cache(way.cache)
    with journey.part(f"{way.name}: generator"):
        if not _is_there(way.generator, journey):
            train_generator(way.generator)
        copy_pipeline(way.generator.run.model, way.pipeline)


def copy_pipeline(model: Path, pipeline: Path) -> None:
    """Copy what a run has made to its own place, in one step."""
    beside = pipeline.with_name(f".{pipeline.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(model, beside)
    publish(beside, pipeline)


def _is_there(
    recipe: TokenizerRecipe | GeneratorRecipe | TransformerRecipe, journey: Journey
) -> bool:
    if not has_ended(recipe.run, recipe):
        return False
    journey.say(f"    {recipe.run.model} is there: not trained again")
    return True


def _evaluate(size: Size, seed: int, way: Way) -> tuple[dict[str, Any], Drawn, list[Grid]]:
    spec, pipeline = way.tokenizer.data, load(way.pipeline).to(device_named("auto"))
    assert isinstance(spec, Scenes)
    unseen = evaluate(
        pipeline, ImageTokenizer.load(way.pipeline), spec, size.prompts, seed,
        way.generator.sampling,
    )  # fmt: skip
    report, one = unseen.report, unseen.one
    write_sheet(size.out / f"{way.name}.png", one.images[:32], one.captions[:32])
    if isinstance(pipeline, TokenPipeline):
        held_out = replace(spec, split="held-out", seed=seed + 1)
        report = report | likelihood(pipeline, LatentCache(way.cache.out), held_out)
    return report, one, _grids(way.name, unseen)


def _grids(name: str, unseen: Unseen) -> list[Grid]:
    pairs, two = torch.stack(unseen.rebuilt, 1).flatten(0, 1), unseen.two
    return [
        Grid(f"{name}: reconstructions of held-out scenes", pairs[:32],
             PAIR * 16, None, pairs=True),
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
