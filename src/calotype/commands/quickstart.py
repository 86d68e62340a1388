"""The whole way with somebody's own pictures, in a time that they name: looked through, measured,
a tokenizer, latents, a generator, and a page that grows meanwhile.
"""

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from torch import Tensor

from calotype.commands.cache_latents import cache
from calotype.commands.demo import copy_pipeline
from calotype.commands.journey import Journey, Part, spoken
from calotype.commands.own_pictures import Looked, look_through
from calotype.commands.quickstart_plan import DRAWN, Recipes, allot, check, choose, recipes
from calotype.commands.timing import Speed, measure
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Folder, Transform, once
from calotype.data.folder import METADATA
from calotype.pages.gallery import PAIR, Grid, Training
from calotype.pages.sheet import write_sheet
from calotype.pipelines import load, sample
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.training import Run, checkpoint
from calotype.training.checkpoint import write_text
from calotype.training.devices import device_named
from calotype.training.precision import Precision

LEAST_MINUTES = 2.0
AIM = 0.96
"""Part of the minutes after which it is to be over."""
LOOKING = 0.1
"""Part of the minutes that looking through the pictures may take."""
TIMING = 4.0
"""Seconds for which each network is timed, or a hundredth of the minutes if these are fewer."""
LEGS = (0.25, 0.6, 1.0)
"""Parts of a network's time after which it is seen how fast it really trains: other programs may
have begun since it was measured. The first leg may take four times as long as it should."""
LOOK, MEASURE, TOKENIZER, CACHE, GENERATOR, DRAW = (
    "looking through the pictures", "measuring this machine", "tokenizer: pictures to latents",
    "encoding the pictures", "generator: latents from noise", "drawing and rebuilding",
)  # fmt: skip
RECORD = "quickstart.json"
"""What was chosen, and whether the tokenizer has had its time."""


@dataclass(frozen=True)
class Quickstart:
    """Train on your own pictures in a time that you name: tokenizer, latents, generator, and a page
    that shows them from the first minute on. Started again, it goes on; with more --minutes,
    further.
    """

    pictures: tyro.conf.Positional[Path]
    """Folder of your pictures. With a .txt file beside each, a metadata.jsonl or .csv, or
    sub-folders named after what is in them, you can draw by prompts afterwards."""
    minutes: float = 20.0
    """How long all of it takes, what it has taken before included."""
    out: Path | None = None
    """Folder of everything; None: runs/quickstart- and the name of the pictures' folder."""
    size: int | None = None
    """Pixels a side, a multiple of 16; None: chosen by how fast this machine is."""
    seed: int = 0
    """Of weights, noise and the order of training."""
    precision: Precision = "auto"
    """Of all that is trained. auto: bf16 where this machine multiplies it in hardware, else
    fp32."""

    def __post_init__(self) -> None:
        if not self.minutes >= LEAST_MINUTES:
            raise ValueError(f"--minutes is {self.minutes:g}: choose {LEAST_MINUTES:g} or more")
        if self.size is not None and (self.size < 32 or self.size % 16):
            raise ValueError(f"--size is {self.size}: choose 32 or more, in steps of 16")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}: choose 0 or more")

    @property
    def folder(self) -> Path:
        """Of everything."""
        return self.out or Path("runs") / f"quickstart-{self.pictures.resolve().name}"


def quickstart(options: Quickstart) -> Path:
    """Run it; returns the gallery page.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it.
        ValueError: the pictures cannot be read, the minutes are too few, or the folder holds
            another way.
    """
    Folder(options.pictures).build()  # that there are pictures is known before there is a page
    page, chosen = options.folder / "gallery.html", _chosen(options)
    parts = [Part(LOOK), Part(MEASURE), Part(TOKENIZER, resumes=True), Part(CACHE),
             Part(GENERATOR, resumes=True), Part(DRAW)]  # fmt: skip
    title = f"calotype quickstart: {options.pictures.resolve().name}"
    with Journey(page, title, parts) as journey:
        journey.say(f"{page} shows what there is so far; open it at any time")
        _travel(options, journey, chosen)
    return page


@dataclass(frozen=True)
class Chosen:
    """What a way keeps when it is taken up again."""

    size: int
    seed: int
    tokenizer_steps: int | None = None
    """The steps of the tokenizer that has had its time; None: it has not yet."""


def _chosen(options: Quickstart) -> Chosen | None:
    """What was chosen when the way began; None: it begins.

    Raises:
        ValueError: something else is asked for now.
    """
    file = options.folder / RECORD
    if not file.exists():
        return None
    chosen = Chosen(**json.loads(file.read_text()))
    for name, asked in (("size", options.size or chosen.size), ("seed", options.seed)):
        if asked != (was := getattr(chosen, name)):
            raise ValueError(
                f"--{name} is {asked}, and {options.folder} was begun with {was}: leave it so, or "
                "choose another --out"
            )
    return chosen


def _travel(options: Quickstart, journey: Journey, chosen: Chosen | None) -> None:
    out, whole = options.folder, 60 * options.minutes * AIM
    with journey.part(LOOK):
        looked = look_through(options.pictures, out / "pictures", LOOKING * whole, options.seed)
        _tell(journey, *looked.lines())
    captions = _captions(out / "pictures") if looked.prompted else ()

    def sized(size: int) -> Recipes:
        return recipes(out, looked, captions, size, options.seed, options.precision)

    with journey.part(MEASURE):
        chosen, speed = _measure(options, journey, looked, chosen, sized)
    way = sized(chosen.size)
    write_text(out / RECORD, json.dumps(asdict(chosen), indent=1) + "\n")
    journey.trainings += _trainings(way, captions)
    if journey.gone > whole:
        _tell(journey, f"This way has had {spoken(journey.gone)} already: with a larger --minutes "
                       "it goes further")  # fmt: skip
    _expect(journey, whole, speed, looked, chosen)
    if chosen.tokenizer_steps is None:
        steps = allot(whole - journey.gone, speed, looked).steps(speed)
        journey.commands += _alone(way.trained(*steps), captions)
        journey.say("The same by single commands:")
        for command in journey.commands:
            journey.say(f"    {command}")
    with journey.part(TOKENIZER):
        chosen = _tokenizer(journey, way, chosen, whole, speed, looked)
        write_text(out / RECORD, json.dumps(asdict(chosen), indent=1) + "\n")
    with journey.part(CACHE):
        cache(way.cache)
    with journey.part(GENERATOR):
        until = whole - allot(whole - journey.gone, speed, looked).drawing
        run = _legs(journey, way.generator, train_generator, until, speed.generator_step)
        copy_pipeline(run.run.model, out / "pipeline")
    with journey.part(DRAW):
        figures = _draw(journey, way, captions, looked, out)
    report = {"pictures": looked.copied, "size": way.size, "minutes": round(journey.gone / 60, 1),
              "tokenizer_steps": chosen.tokenizer_steps, "generator_steps": run.run.steps,
              **figures}  # fmt: skip
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    _tell(journey, *_ending(options, report, captions))


def _tell(journey: Journey, *lines: str) -> None:
    """Say it, and let it stand on the page."""
    for line in lines:
        journey.say(line)
    journey.lines += lines


def _measure(
    options: Quickstart, journey: Journey, looked: Looked, chosen: Chosen | None,
    sized: Callable[[int], Recipes],
) -> tuple[Chosen, Speed]:  # fmt: skip
    whole = 60 * options.minutes * AIM

    def measured(size: int) -> Speed:
        way = sized(size)
        return measure(way.tokenizer, way.cache, way.generator, min(TIMING, whole / 100))

    if chosen is not None:
        return chosen, measured(chosen.size)
    if options.size is not None:
        size, speed = options.size, measured(options.size)
        why = f"{size} pixels a side, as you asked"
    else:
        size, speed, why = choose(whole - journey.gone, looked, measured)
    check(options.minutes, whole - journey.gone, speed, looked)
    _tell(journey, why)
    return Chosen(size, options.seed), speed


def _expect(journey: Journey, whole: float, speed: Speed, looked: Looked, chosen: Chosen) -> None:
    allotted = allot(max(0.0, whole - journey.gone), speed, looked)
    seconds = asdict(allotted)
    if chosen.tokenizer_steps is not None:
        seconds["generator"] += seconds["tokenizer"]
        seconds["tokenizer"] = 0.0
    for name, part in zip(seconds, (TOKENIZER, CACHE, GENERATOR, DRAW), strict=True):
        journey.parts[part].seconds = seconds[name]


def _alone(way: Recipes, captions: tuple[str, ...]) -> list[str]:
    pipeline = ["--pipeline", str(way.generator.run.model)]
    return [*way.commands(), shlex.join(["calotype", "generate", *captions[:1], *pipeline])]


def _tokenizer(
    journey: Journey, way: Recipes, chosen: Chosen, whole: float, speed: Speed, looked: Looked
) -> Chosen:
    if chosen.tokenizer_steps is not None:
        _tell(journey, f"The tokenizer stays as it is, after {chosen.tokenizer_steps} steps: with "
                       "another one the generator would have to begin anew. More minutes go to the "
                       "generator; another --out gives each its share")  # fmt: skip
        return chosen
    left = whole - journey.took.get(LOOK, 0.0) - journey.took.get(MEASURE, 0.0)
    until = whole - left + allot(left, speed, looked).tokenizer
    trained = _legs(journey, way.tokenizer, train_tokenizer, until, speed.tokenizer_step)
    return replace(chosen, tokenizer_steps=trained.run.steps)


R = TypeVar("R", TokenizerRecipe, GeneratorRecipe)


def _legs(journey: Journey, recipe: R, train: Callable[[R], Path], until: float, step: float) -> R:
    """Train until the journey has taken so many seconds, in legs of which each is as long as the
    speed of the one before allows; what is exported after each can be looked at. Returns the recipe
    of the last one. A network that has no weights yet is trained for a step at least.
    """
    done = _step(recipe.run)
    for share in LEGS:
        seconds = max(0.0, share * (until - journey.gone))
        steps = max(done + int(seconds / step), 1)
        leg = replace(recipe, run=replace(recipe.run, steps=steps))
        if steps <= done and recipe.run.model.exists():
            return replace(leg, run=replace(leg.run, steps=done))
        began = time.monotonic()
        train(leg)
        step = (time.monotonic() - began) / max(1, steps - done)
        recipe, done = leg, steps
    return recipe


def _step(run: Run) -> int:
    """The step of the newest checkpoint; 0: there is none."""
    found = checkpoint.complete(run.checkpoints)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def _captions(copies: Path) -> tuple[str, ...]:
    """Different captions, from all over the pictures."""
    rows = (copies / METADATA[0]).read_text().splitlines()
    said = [json.loads(row)["caption"] for row in rows]
    different = [caption for caption in dict.fromkeys(said) if caption]
    return tuple(different[:: -(-len(different) // DRAWN)])


def _trainings(way: Recipes, captions: tuple[str, ...]) -> list[Training]:
    tokenizer, generator = way.tokenizer, way.generator
    return [
        Training("drawings, while the generator trains", generator.run.out, way.size,
                 captions or ("",) * DRAWN),
        Training("pictures rebuilt by the tokenizer, while it trains: cropped and mirrored at "
                 "random, as it learns them", tokenizer.run.out, way.size,
                 PAIR * tokenizer.examples, pairs=True),
    ]  # fmt: skip


def _draw(
    journey: Journey, way: Recipes, captions: tuple[str, ...], looked: Looked, out: Path
) -> dict[str, Any]:
    """Draw and rebuild, and show it; returns figures."""
    device = device_named("auto")
    pipeline, seed = load(out / "pipeline").to(device), way.generator.run.seed
    prompts = captions or ("",) * DRAWN
    seeds = range(seed, seed + len(prompts))
    drawn = torch.cat(list(sample(pipeline, prompts, seeds, way.generator.sampling)))
    real, fake = _rebuilt(way)
    pairs = torch.stack([real, fake], 1).flatten(0, 1)[: 2 * DRAWN]
    write_sheet(out / "drawn.png", drawn, prompts)
    write_sheet(out / "rebuilt.png", pairs, PAIR * (len(pairs) // 2))
    what = "new pictures that it draws of captions" if captions else "new pictures that it draws"
    journey.show(
        Grid(what, drawn, captions or None, None),
        Grid("your pictures beside what the tokenizer makes of them", pairs,
             PAIR * (len(pairs) // 2), None, pairs=True),
    )  # fmt: skip
    return {"reconstruction_psnr_db": round(psnr(fake, real).mean().item(), 2),
            "reconstructed": len(real)}  # fmt: skip


def _rebuilt(way: Recipes, count: int = 64) -> tuple[Tensor, Tensor]:
    """Pictures, and what the tokenizer makes of them."""
    transform = Transform(CenterCrop(way.size))
    real = next(once(way.tokenizer.data.build(), count, transform))["image"]
    tokenizer = ImageTokenizer.load(way.tokenizer.run.model)
    return real, tokenizer.reconstruct(real).clamp(-1, 1)


def _ending(options: Quickstart, report: dict[str, Any], captions: tuple[str, ...]) -> list[str]:
    pipeline = ["--pipeline", str(options.folder / "pipeline")]
    tokenizer = str(options.folder / "tokenizer/model")
    chosen = ["--seed", str(options.seed)] if options.seed else []
    if options.precision != "auto":
        chosen += ["--precision", options.precision]
    here = [] if options.out is None else ["--out", str(options.out)]
    more = ["calotype", "quickstart", str(options.pictures),
            "--minutes", f"{3 * options.minutes:g}", *chosen]  # fmt: skip
    anew = ["--out", f"{options.folder}-{3 * options.minutes:g}"]
    others = ["--images", str(DRAWN), "--seed", str(options.seed + DRAWN)]
    return [
        f"{report['reconstruction_psnr_db']} dB PSNR between {report['reconstructed']} pictures it "
        "has learnt from and what the tokenizer makes of them: 20 is coarse, 30 good, 40 hard to "
        "tell apart",
        f"{report['tokenizer_steps']} steps of the tokenizer, {report['generator_steps']} of the "
        f"generator, {spoken(60 * report['minutes'])} in all",
        f"draw others: {shlex.join(['calotype', 'generate', *captions[:1], *pipeline, *others])}",
        "rebuild other pictures: "
        + shlex.join(["calotype", "reconstruct", tokenizer, "--data.path", "FOLDER"]),
        f"sharper pictures, from the beginning: {shlex.join([*more, *anew])}",
        f"the generator further, the tokenizer as it is: {shlex.join([*more, *here])}",
    ]
