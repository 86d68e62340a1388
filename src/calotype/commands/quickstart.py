"""The whole way with somebody's own pictures, in a time that they name: looked through, measured,
a tokenizer, latents, a generator, and a page that grows meanwhile.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from calotype.commands.cache_latents import cache
from calotype.commands.demo import copy_pipeline
from calotype.commands.journey import Journey, Part, spoken
from calotype.commands.legs import train_until
from calotype.commands.own_pictures import Looked, look_through, opened
from calotype.commands.quickstart_plan import DRAWN, Recipes, allot, check, choose, recipes
from calotype.commands.quickstart_result import show_result
from calotype.commands.timing import Speed, measure
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data.folders.folder import METADATA
from calotype.data.folders.layouts import Captions
from calotype.pages.gallery import PAIR, Training
from calotype.training.devices import device_named
from calotype.training.files import write_text
from calotype.training.precision import Precision, described, settled, suits

LEAST_MINUTES = 2.0
AIM = 0.96
"""Part of the minutes after which it is to be over."""
LOOKING = 0.1
"""Part of the minutes that looking through the pictures may take."""
TIMING = 4.0
"""Seconds for which each network is timed, or a hundredth of the minutes if these are fewer."""
LOOK, MEASURE, TOKENIZER, CACHE, GENERATOR, DRAW = (
    "looking through the pictures", "measuring this machine", "tokenizer: pictures to latents",
    "encoding the pictures", "generator: latents from noise", "drawing and rebuilding",
)  # fmt: skip
RECORD = "quickstart.json"
"""What was chosen and measured, and whether the tokenizer has had its time."""


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
    captions: Captions = "found"
    """Where captions come from: as they are found, if that is clear; metadata files; texts beside
    the pictures; names of sub-folders; or none."""

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
    # That there are pictures is known before there is a page.
    opened(options.pictures, options.captions)
    page, begun = options.folder / "gallery.html", _begun(options)
    parts = [Part(LOOK, resumes=True), Part(MEASURE, resumes=True),
             Part(TOKENIZER, resumes=True), Part(CACHE),
             Part(GENERATOR, resumes=True), Part(DRAW)]  # fmt: skip
    title = f"calotype quickstart: {options.pictures.resolve().name}"
    with Journey(page, title, parts) as journey:
        journey.say(f"{page} shows what there is so far; open it at any time")
        _travel(options, journey, begun)
    return page


@dataclass(frozen=True)
class Chosen:
    """What a way keeps when it is taken up again."""

    size: int
    seed: int
    speed: Speed
    measured_on: str
    """The device of that speed, its threads and the precision."""
    tokenizer_steps: int | None = None
    """The steps of the tokenizer that has had its time; None: it has not yet."""


def _begun(options: Quickstart) -> dict[str, Any] | None:
    """The record of a way that is taken up again; None: it begins.

    Raises:
        ValueError: something else is asked for now.
    """
    file = options.folder / RECORD
    if not file.exists():
        return None
    kept = json.loads(file.read_text())
    for name, asked in (("size", options.size or kept["size"]), ("seed", options.seed)):
        if asked != (was := kept[name]):
            raise ValueError(
                f"--{name} is {asked}, and {options.folder} was begun with {was}: leave it so, or "
                "choose another --out"
            )
    return kept


def _travel(options: Quickstart, journey: Journey, begun: dict[str, Any] | None) -> None:
    out, whole = options.folder, 60 * options.minutes * AIM
    with journey.part(LOOK):
        looked = look_through(
            options.pictures, out / "pictures", LOOKING * whole, options.seed, options.captions
        )
        _tell(journey, *looked.lines())
    captions = _captions(out / "pictures") if looked.prompted else ()

    def sized(size: int) -> Recipes:
        return recipes(out, looked, captions, size, options.seed, options.precision)

    with journey.part(MEASURE):
        chosen = _measure(options, journey, looked, begun, sized)
    way, speed = sized(chosen.size), chosen.speed
    write_text(out / RECORD, json.dumps(asdict(chosen), indent=1) + "\n")
    journey.trainings += _trainings(way, captions)
    if journey.gone > whole:
        _tell(journey, f"This way has had {spoken(journey.gone)} already: with a larger --minutes "
                       "it goes further")  # fmt: skip
    _expect(journey, whole, speed, looked, chosen)
    if chosen.tokenizer_steps is None:
        steps = allot(_for_parts(journey, whole), speed, looked).steps(speed)
        journey.commands = _alone(options, way, captions, *(max(1, each) for each in steps))
        journey.say("The same by single commands, in a folder of their own:")
        for command in journey.commands:
            journey.say(f"    {command}")
    with journey.part(TOKENIZER) as part:
        chosen = _tokenizer(journey, part, way, chosen, whole, looked)
        write_text(out / RECORD, json.dumps(asdict(chosen), indent=1) + "\n")
    with journey.part(CACHE):
        cache(way.cache)
    with journey.part(GENERATOR) as part:
        until = whole - allot(whole - journey.gone, speed, looked).drawing
        run = train_until(
            journey, part, way.generator, train_generator, until, speed.generator_step
        )
        copy_pipeline(run.run.model, out / "pipeline")
    steps = chosen.tokenizer_steps or 0, run.run.steps
    journey.commands = _alone(options, way, captions, *steps)
    with journey.part(DRAW):
        figures = show_result(journey, way, captions, out)
    report = {"pictures": looked.copied, "size": way.size, "minutes": round(journey.gone / 60, 1),
              "tokenizer_steps": steps[0], "generator_steps": steps[1],
              **figures}  # fmt: skip
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    _tell(journey, *_ending(options, report, captions))


def _tell(journey: Journey, *lines: str) -> None:
    """Say it, and let it stand on the page."""
    for line in lines:
        journey.say(line)
    journey.lines += lines


def _measure(
    options: Quickstart, journey: Journey, looked: Looked, begun: dict[str, Any] | None,
    sized: Callable[[int], Recipes],
) -> Chosen:  # fmt: skip
    here = _here(options)
    if begun is not None and begun.get("measured_on") == here:
        return Chosen(**{**begun, "speed": Speed(**begun["speed"])})
    whole = 60 * options.minutes * AIM

    def measured(size: int) -> Speed:
        way = sized(size)
        return measure(way.tokenizer, way.cache, way.generator, min(TIMING, whole / 100))

    if begun is not None:
        again = {"speed": measured(begun["size"]), "measured_on": here}
        return Chosen(**{**begun, **again})
    if options.size is not None:
        size, speed = options.size, measured(options.size)
        why = f"{size} pixels a side, as you asked"
    else:
        size, speed, why = choose(whole - journey.gone, looked, measured)
    check(options.minutes, whole - journey.gone, speed, looked)
    _tell(journey, why, f"by the recipes that fit a small machine, on {here}: {_reason(options)}")
    return Chosen(size, options.seed, speed, here)


def _reason(options: Quickstart) -> str:
    asked = options.precision != "auto"
    return "asked for by name" if asked else suits(device_named("auto")).reason


def _here(options: Quickstart) -> str:
    device = device_named("auto")
    precision = settled(options.precision, device)
    return f"{described(device)}, {torch.get_num_threads()} threads, {precision}"


def _expect(journey: Journey, whole: float, speed: Speed, looked: Looked, chosen: Chosen) -> None:
    allotted = allot(max(0.0, whole - journey.gone), speed, looked)
    seconds = vars(allotted).copy()
    if chosen.tokenizer_steps is not None:
        seconds["generator"] += seconds["tokenizer"]
        seconds["tokenizer"] = 0.0
    for name, part in zip(seconds, (TOKENIZER, CACHE, GENERATOR, DRAW), strict=True):
        journey.parts[part].seconds = seconds[name]


def _alone(options: Quickstart, way: Recipes, captions: tuple[str, ...], *steps: int) -> list[str]:
    """The commands that do the same from the beginning, and leave what is here as it is."""
    way = way.trained(*steps).anew(Path(f"{options.folder}-by-hand"))
    pipeline = ["--pipeline", str(way.generator.run.model)]
    return [*way.commands(), shlex.join(["calotype", "generate", *captions[:1], *pipeline])]


def _for_parts(journey: Journey, whole: float) -> float:
    """Seconds of the whole for what comes after looking and measuring, what is done of it
    included.
    """
    return whole - journey.took.get(LOOK, 0.0) - journey.took.get(MEASURE, 0.0)


def _tokenizer(
    journey: Journey, part: Part, way: Recipes, chosen: Chosen, whole: float, looked: Looked
) -> Chosen:
    if chosen.tokenizer_steps is not None:
        _tell(journey, f"The tokenizer stays as it is, after {chosen.tokenizer_steps} steps: with "
                       "another one the generator would have to begin anew. More minutes go to the "
                       "generator; another --out gives each its share")  # fmt: skip
        return chosen
    left = _for_parts(journey, whole)
    until = whole - left + allot(left, chosen.speed, looked).tokenizer
    step = chosen.speed.tokenizer_step
    trained = train_until(journey, part, way.tokenizer, train_tokenizer, until, step)
    return replace(chosen, tokenizer_steps=trained.run.steps)


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


def _ending(options: Quickstart, report: dict[str, Any], captions: tuple[str, ...]) -> list[str]:
    pipeline = ["--pipeline", str(options.folder / "pipeline")]
    tokenizer = str(options.folder / "tokenizer/model")
    chosen = ["--seed", str(options.seed)] if options.seed else []
    if options.precision != "auto":
        chosen += ["--precision", options.precision]
    if options.captions != "found":
        chosen += ["--captions", options.captions]
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
