"""What the demo trains: two ways from scenes to a pipeline, how long each part of them is, and how
long that takes here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from calotype.commands.journey import Journey, Part, last_step, spoken, together
from calotype.commands.timing import Speed, measure
from calotype.data import Scenes
from calotype.data.cache.index import is_finished
from calotype.data.drawn.scenes import held_out_scenes
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.demo import demo_ar, demo_diffusion, demo_kl, demo_latents, demo_vq
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.recipes.transformer import TransformerRecipe
from calotype.training import Run, has_ended
from calotype.training.devices import threads
from calotype.training.precision import Precision

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
    "full": Size(Path("runs/demo"), 2300, 1300, 500, 3800, 4_000, 20_000, 256, None),
    "small": Size(Path("runs/demo-small"), 1450, 600, 200, 1450, 2_000, 10_000, 64,
                  "31 dB, and of unseen prompts some three quarters right by diffusion, a third by "
                  "the transformer"),
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
    precision: Precision = "auto"
    """Of all that is trained. auto: bf16 where this machine multiplies it in hardware, else
    fp32."""

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


MEASURING = "measuring this machine"


@dataclass(frozen=True)
class Names:
    """Of the parts of a way."""

    tokenizer: str
    cache: str
    generator: str
    unseen: str


def names_of(way: Way) -> Names:
    """What the parts of a way are called."""
    return Names(
        *(f"{way.name}: {part}" for part in ("tokenizer", "cache", "generator", "unseen prompts"))
    )


def parts_of(way: Way, side_by_side: bool) -> list[Part]:
    """The second way begins with the first one's tokenizer; what follows can go side by side."""
    names, lane = names_of(way), way.name if side_by_side else None
    begun = isinstance(way.tokenizer.model, NewTokenizer) and way.tokenizer.model.start
    return [
        Part(names.tokenizer, run=way.tokenizer.run, resumes=True, lane=lane if begun else None),
        Part(names.cache, resumes=True, lane=lane),
        Part(names.generator, run=way.generator.run, resumes=True, lane=lane),
        Part(names.unseen, lane=None if begun else lane),
    ]


def speed_of(way: Way, threads_each: int | None) -> Speed | None:
    """How fast the parts of a way are here; None: all of them are done."""
    if all(ended(way).values()):
        return None
    tokenizer = way.tokenizer
    assert isinstance(tokenizer.model, NewTokenizer)
    # What it begins with may not be there yet, and weights make no step faster.
    fresh = replace(tokenizer, model=replace(tokenizer.model, start=None))
    with threads(threads_each if tokenizer.model.start else None):
        return measure(fresh, way.cache, way.generator, threads_after=threads_each)


def is_trained(recipe: TokenizerRecipe | GeneratorRecipe | TransformerRecipe) -> bool:
    """Whether a network is trained, in whichever precision.

    Raises:
        ValueError: another one is in its folder.
    """
    try:
        return has_ended(replace(recipe.run, precision="auto"), recipe)
    except ValueError as error:
        raise ValueError(
            f"{error}; a demo that was begun by other options or another version: delete its "
            "folder, or name a new one with --out"
        ) from error


def ended(way: Way) -> dict[str, bool]:
    """Whether the parts of a way that leave something behind are done."""
    names = names_of(way)
    return {
        names.tokenizer: is_trained(way.tokenizer),
        names.cache: is_finished(way.cache.out),
        names.generator: is_trained(way.generator),
    }


def expect(journey: Journey, size: Size, way: Way, speed: Speed | None) -> None:
    """Reckon how long each part of a way takes that is still to do."""
    over, unseen = ended(way), names_of(way).unseen
    seconds = _seconds(size, way, speed) if speed else {unseen: journey.took.get(unseen, 0.0)}
    for part in parts_of(way, side_by_side=False):
        still = 0.0 if over.get(part.name) else seconds[part.name]
        journey.parts[part.name].seconds = still


def _seconds(size: Size, way: Way, speed: Speed) -> dict[str, float]:
    """Of each part of a way, from where it stands."""

    def steps(run: Run) -> int:
        return max(0, run.steps - last_step(run))

    names = names_of(way)
    measured = 2 * way.tokenizer.measure * speed.encoded
    pictures = way.generator.run.steps / way.generator.run.sample_every * SHOWN * speed.drawn
    return {
        names.tokenizer: steps(way.tokenizer.run) * speed.tokenizer_step + measured,
        names.cache: size.scenes * speed.encoded,
        names.generator: steps(way.generator.run) * speed.generator_step + pictures,
        names.unseen: 1.25 * size.prompts * speed.drawn + 2 * 512 * speed.encoded,
    }


def say_how_long(journey: Journey, options: Demo, speeds: Sequence[Speed | None]) -> None:
    """Tell how long each part takes and all of it, and of a smaller demo where that is long."""
    for part in journey.parts.values():
        if part.seconds is not None and not part.done:
            journey.say(f"    {part.name}: about {spoken(part.seconds)}")
    total = journey.left() or 0.0
    lanes = sorted({part.lane for part in journey.parts.values() if part.lane})
    beside = f"; {' and '.join(lanes)} side by side" if lanes else ""
    journey.say(f"about {spoken(total)} on this machine, all together{beside}")
    if total > TOO_LONG and options.size != "small" and None not in speeds:
        small = Demo("small", seed=options.seed, precision=options.precision)
        journey.say(_offer(small, [speed for speed in speeds if speed], bool(lanes)))


def _offer(small: Demo, speeds: Sequence[Speed], side_by_side: bool) -> str:
    """A demo of the same networks and fewer steps; one that is half done is not left for it."""
    size, seconds, parts = small.sized(), dict[str, float](), list[Part]()
    for way, speed in zip(both_ways(small), speeds, strict=True):
        parts += parts_of(way, side_by_side)
        seconds |= _seconds(size, way, speed)
    total = together(parts, lambda part: seconds[part.name])
    reaches = f" and reaches {size.reaches}" if size.reaches else ""
    precision = "" if small.precision == "auto" else f" --precision {small.precision}"
    return (f"That is long. `calotype demo --size small{precision}` takes about {spoken(total)}"
            f"{reaches}; to take it, press Ctrl-C now.")  # fmt: skip


def both_ways(options: Demo) -> tuple[Way, Way]:
    """The recipes of the demo, each of what the one before it makes."""
    size, out = options.sized(), options.sized().out
    cut = partial(_cut, size, options)
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


def _cut(size: Size, options: Demo, recipe: R) -> R:
    log, save, sample = EVERY
    run: Run = replace(recipe.run, resume=True, seed=options.seed,
                       precision=options.precision, log_every=log, save_every=save,
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
