"""The whole way in minutes: scenes to a tokenizer, to latents, to text-to-image by diffusion;
to another tokenizer, to tokens, to text-to-image by a transformer; and a gallery that says how much
of either is right.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from calotype.commands.beside import Call, WorkerProcess, call_here, threads_for_two
from calotype.commands.cache_latents import cache
from calotype.commands.demo_plan import (
    MEASURING,
    Demo,
    Size,
    Way,
    both_ways,
    expect,
    is_trained,
    names_of,
    parts_of,
    say_how_long,
    speed_of,
)
from calotype.commands.journey import Journey, Part
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import LatentCache, Scenes
from calotype.evaluation.scenes import Drawn, HeldOut, evaluate, likelihood
from calotype.pages.gallery import PAIR, Grid, Training
from calotype.pages.sheet import write_sheet
from calotype.pipelines import TokenPipeline, load
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.training.devices import device_named
from calotype.training.files import publish, write_text

BESIDE = "beside.log"
"""What the process says that is at work beside the one that is shown."""


def demo(options: Demo) -> Path:
    """Run it; returns the gallery page."""
    size, ways = options.sized(), both_ways(options)
    page, threads_each = size.out / "gallery.html", threads_for_two()
    parts = [Part(MEASURING), *(part for way in ways for part in parts_of(way, bool(threads_each)))]
    with Journey(page, "calotype demo", parts, _trainings(ways)) as journey:
        journey.say(f"{page} shows what there is so far; open it at any time")
        with journey.part(MEASURING):
            speeds = [speed_of(way, threads_each) for way in ways]
            for way, speed in zip(ways, speeds, strict=True):
                expect(journey, size, way, speed)
        say_how_long(journey, options, speeds)
        report: dict[str, Any] = {}
        drawn: dict[str, Drawn] = {}

        def draw(way: Way) -> None:
            with journey.part(names_of(way).unseen):
                report[way.name], drawn[way.name], grids = _evaluate(size, options.seed, way)
                journey.lines += _lines(way.name, report[way.name])
                journey.show(*grids)

        _travel(ways, journey, draw, threads_each)
        report["minutes"] = round(journey.gone / 60, 1)
        write_text(size.out / "report.json", json.dumps(report, indent=1) + "\n")
        journey.lines.append(f"{report['minutes']} minutes")
        journey.grids.insert(0, _side_by_side(drawn))
    for line in journey.lines:
        journey.say(line)
    return page


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


def _travel(
    ways: tuple[Way, Way], journey: Journey, draw: Callable[[Way], None], threads_each: int | None
) -> None:
    """The second way begins with the first one's tokenizer; from there on they can go side by side,
    each with so many threads.
    """
    first, second = ways
    _train_tokenizer(first, journey, call_here)
    if threads_each is None:
        _train_generator(first, journey, call_here)
        draw(first)
        _train_tokenizer(second, journey, call_here)
        _train_generator(second, journey, call_here)
    else:
        with WorkerProcess(journey.page.with_name(BESIDE), threads_each) as process:

            def travel(call: Call) -> None:
                try:
                    _train_tokenizer(second, journey, call)
                    _train_generator(second, journey, call)
                except Exception as error:
                    if not process.stopping:
                        journey.say(f"{second.name} failed, {first.name} goes on: {error}")
                    raise

            journey.say(f"{second.name} goes beside {first.name}; what it says is in {process.log}")
            other = process.begin(travel)
            _train_generator(first, journey, call_here)
            draw(first)
        other.result()
    draw(second)


def _train_tokenizer(way: Way, journey: Journey, call: Call) -> None:
    with journey.part(names_of(way).tokenizer):
        if not _is_there(way.tokenizer, journey):
            call(train_tokenizer, way.tokenizer)


def _train_generator(way: Way, journey: Journey, call: Call) -> None:
    names = names_of(way)
    with journey.part(names.cache):
        call(cache, way.cache)
    with journey.part(names.generator):
        if not _is_there(way.generator, journey):
            call(train_generator, way.generator)
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
    if not is_trained(recipe):
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


def _grids(name: str, unseen: HeldOut) -> list[Grid]:
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
