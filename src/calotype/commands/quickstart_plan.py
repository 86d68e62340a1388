"""What `quickstart` trains and for how long: recipes for a folder of pictures, and a size that
suits the machine.

The learning rates are constant, because a rate that falls to the end of a run would bind the run to
a length that is not known: how fast the machine is shows while it trains, and more minutes may be
given later. What is exported is the average over the last steps, which takes the place of a rate
that has fallen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from calotype.commands.command_line import spell
from calotype.commands.own_pictures import Looked
from calotype.commands.timing import Speed
from calotype.data import CenterCrop, Flip, Folder, RandomCrop, Transform
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.caches import CACHES
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.training import Run
from calotype.training.precision import Precision

KL, CACHED, DIFFUSION = "small-kl", "small", "small-diffusion"
"""Recipes of the tokenizer, the cache and the generator, of which these are variants."""
SIZES = (32, 48, 64, 96, 128)
"""Pixels a side that are chosen from."""
ENOUGH = (600, 800)
"""Steps of tokenizer and generator from which on a larger size is worth it."""
LEAST = (30, 30)
"""Steps without which there is nothing to see."""
SHARE = 0.45
"""Of the time for training, the tokenizer's."""
MEASURED = 512
"""Pictures on which the latents' statistics are measured, twice."""
DRAWN = 16
"""Pictures that are drawn and rebuilt."""
ENDING = 15.0
"""Seconds for what is loaded and saved in the end."""


@dataclass(frozen=True)
class Recipes:
    """The three of a way."""

    tokenizer: TokenizerRecipe
    cache: CacheRecipe
    generator: GeneratorRecipe

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.tokenizer.size

    def trained(self, tokenizer_steps: int, generator_steps: int) -> "Recipes":
        """With so many steps."""
        tokenizer, generator = self.tokenizer, self.generator
        return replace(
            self,
            tokenizer=replace(tokenizer, run=replace(tokenizer.run, steps=tokenizer_steps)),
            generator=replace(generator, run=replace(generator.run, steps=generator_steps)),
        )

    def anew(self, out: Path) -> "Recipes":
        """In another folder, from the beginning, of the same pictures."""
        tokenizer = replace(self.tokenizer, run=_begun(self.tokenizer.run, out / "tokenizer"))
        model, latents = str(tokenizer.run.model), out / "latents"
        run = _begun(self.generator.run, out / "generator")
        return Recipes(
            tokenizer, replace(self.cache, tokenizer=model, out=latents),
            replace(self.generator, tokenizer=model, cache=latents, run=run),
        )  # fmt: skip

    def commands(self) -> list[str]:
        """The single commands that do the same."""
        silent = replace(self.generator, prompts=())
        return [
            spell("train-tokenizer", KL, TOKENIZERS[KL](), self.tokenizer),
            spell("cache-latents", CACHED, CACHES[CACHED](), self.cache),
            spell("train-generator", DIFFUSION, GENERATORS[DIFFUSION](), silent),
        ]


def _begun(run: Run, out: Path) -> Run:
    return replace(run, out=out, resume=False)


def recipes(
    out: Path, looked: Looked, captions: tuple[str, ...], size: int, seed: int,
    precision: Precision = "auto",
) -> Recipes:  # fmt: skip
    """The recipes for pictures that were looked through, copied to `out / "pictures"`."""
    pictures = Folder(str(out / "pictures"))
    kl, cached, diffusion = TOKENIZERS[KL](), CACHES[CACHED](), GENERATORS[DIFFUSION]()
    assert isinstance(diffusion, GeneratorRecipe)
    tokenizer = replace(
        kl, data=pictures, transform=Transform(RandomCrop(size, resize=size * 9 // 8), Flip()),
        measure=MEASURED, optimizer=replace(kl.optimizer, schedule="constant"),
        run=replace(kl.run, out=out / "tokenizer", ema=0.995, resume=True, seed=seed,
                    precision=precision, log_every=10, save_every=100, sample_every=50),
    )  # fmt: skip
    text = cached.text if looked.prompted else None
    latents = replace(
        cached, tokenizer=str(tokenizer.run.model), out=out / "latents", data=pictures,
        transform=Transform(CenterCrop(size)), text=text, flipped=not looked.tell_sides,
    )  # fmt: skip
    generator = replace(
        diffusion, tokenizer=latents.tokenizer, cache=latents.out, prompts=captions,
        text=diffusion.text if text else None,
        unet=replace(diffusion.unet, pooled_text=text is not None),
        optimizer=replace(diffusion.optimizer, schedule="constant"),
        run=replace(diffusion.run, out=out / "generator", batch_size=32, resume=True, seed=seed,
                    precision=precision, log_every=10, save_every=100, sample_every=50),
    )  # fmt: skip
    return Recipes(tokenizer, latents, generator)


@dataclass(frozen=True)
class Allotment:
    """How long each part of a way takes of the minutes that are given, in seconds."""

    tokenizer: float
    cache: float
    generator: float
    drawing: float

    def steps(self, speed: Speed) -> tuple[int, int]:
        """Of tokenizer and generator."""
        measured = 2 * MEASURED * speed.encoded
        return (
            max(0, int((self.tokenizer - measured) / speed.tokenizer_step)),
            max(0, int(self.generator / speed.generator_step)),
        )


def allot(seconds: float, speed: Speed, looked: Looked) -> Allotment:
    """Share out the seconds that are left of the whole."""
    cached = looked.copied * (1 if looked.tell_sides else 2) * speed.encoded
    drawing = ENDING + DRAWN * speed.drawn
    training = max(0.0, seconds - cached - drawing)
    return Allotment(SHARE * training, cached, (1 - SHARE) * training, drawing)


def choose(
    seconds: float, looked: Looked, measured: Callable[[int], Speed]
) -> tuple[int, Speed, str]:
    """The largest size at which both networks take enough steps in the seconds that are left, or
    the smallest; its speed; and why.

    A step takes as long as it has pixels, nearly: so the sizes worth measuring are found from the
    speed at the smallest.
    """
    smallest = measured(SIZES[0])
    for size in reversed(SIZES[1:]):
        factor = (size / SIZES[0]) ** 2
        if not _enough(
            allot(seconds, _slower(smallest, factor), looked), _slower(smallest, factor)
        ):
            continue
        speed = measured(size)
        allotted = allot(seconds, speed, looked)
        if _enough(allotted, speed):
            return size, speed, _why(size, allotted.steps(speed))
    return SIZES[0], smallest, _why(SIZES[0], allot(seconds, smallest, looked).steps(smallest))


def check(minutes: float, seconds: float, speed: Speed, looked: Looked) -> None:
    """Refuse minutes in which nothing would be learnt.

    Raises:
        ValueError: they are too few on this machine; the message says how many would do.
    """
    steps = allot(seconds, speed, looked).steps(speed)
    if all(each >= least for each, least in zip(steps, LEAST, strict=True)):
        return
    needed = max(
        (LEAST[0] * speed.tokenizer_step + 2 * MEASURED * speed.encoded) / SHARE,
        LEAST[1] * speed.generator_step / (1 - SHARE),
    )
    other = allot(seconds, speed, looked)
    more = needed + other.cache + other.drawing - seconds
    raise ValueError(
        f"--minutes {minutes:g} is too few on this machine, where {steps[0]} steps of the "
        f"tokenizer and {steps[1]} of the generator fit in: give "
        f"{math.ceil(minutes + more / 60)} or more"
    )


def _enough(allotted: Allotment, speed: Speed) -> bool:
    return all(has >= least for has, least in zip(allotted.steps(speed), ENOUGH, strict=True))


def _slower(speed: Speed, factor: float) -> Speed:
    return Speed(*(factor * each for each in vars(speed).values()))


def _why(size: int, steps: tuple[int, int]) -> str:
    tokenizer, generator = steps
    if size == SIZES[0] and not all(has >= least for has, least in zip(steps, ENOUGH, strict=True)):
        return (f"{size} pixels a side, the smallest size, because this machine takes only about "
                f"{tokenizer} steps of the tokenizer and {generator} of the generator in the time; "
                f"with fewer than {ENOUGH[0]} and {ENOUGH[1]} pictures stay rough")  # fmt: skip
    larger = "" if size == SIZES[-1] else ", and a larger one would take too few"
    return (f"{size} pixels a side: there this machine takes about {tokenizer} steps of the "
            f"tokenizer and {generator} of the generator in the time{larger}")  # fmt: skip
