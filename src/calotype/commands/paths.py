"""Images on the way between prompts, or between the latents of seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from calotype.pipelines import Toward, Wanted, Way


def _check_images(images: int) -> None:
    if images < 3:
        raise ValueError(f"--between.images is {images}: with both ends it is 3 or more")


@dataclass(frozen=True)
class Prompts:
    """From each prompt to the next, with the same seed."""

    images: int = 8
    """From one to the next, both among them."""
    way: Way = "linear"
    """linear: straight; spherical: along the sphere on which both lie."""

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True)
class Latents:
    """From the latents that a seed begins with to those of the next one, with the same prompt."""

    images: int = 8
    """From one to the next, both among them."""
    way: Way = "spherical"
    """linear: straight, where the middle has too little noise and turns out grey; spherical: along
    the sphere on which both lie."""
    seeds: int = 2
    """Seeds on the way, from --seed on."""

    def __post_init__(self) -> None:
        _check_images(self.images)
        if self.seeds < 2:
            raise ValueError(f"--between.seeds is {self.seeds}: a way has two ends or more")


Between = Prompts | Latents


def frames(between: Between, prompts: Sequence[str], seed: int) -> Iterator[Wanted]:
    """The images of a way; at its ends and turns they are those of a prompt and seed alone.

    Raises:
        ValueError: there are not two prompts to go between.
    """
    if isinstance(between, Prompts):
        if len(prompts) < 2:
            raise ValueError("between:prompts goes from one prompt to the next: give two or more")
        yield from _way(between, [(prompt, seed) for prompt in prompts])
        return
    for prompt in dict.fromkeys(prompts):
        yield from _way(between, [(prompt, seed + i) for i in range(between.seeds)])


def row(between: Between, prompts: int) -> int:
    """Images beside each other in a grid: a prompt's whole way; between more than two prompts, from
    one to before the next.
    """
    if isinstance(between, Latents):
        return (between.seeds - 1) * (between.images - 1) + 1
    return between.images if prompts == 2 else between.images - 1


def _way(between: Between, ends: Sequence[tuple[str, int]]) -> Iterator[Wanted]:
    steps, way = between.images - 1, between.way
    for here, there in pairwise(ends):
        yield Wanted(*here, Toward(*here, 0.0, way))
        yield from (Wanted(*here, Toward(*there, i / steps, way)) for i in range(1, steps))
    yield Wanted(*ends[-1], Toward(*ends[-1], 0.0, way))
