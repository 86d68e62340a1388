"""A pipeline set up as it was asked to draw, and the images of one batch after another."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.autoregressive import TokenSampling
from calotype.pipelines import (
    Over,
    Sampling,
    TokenPipeline,
    Top,
    Wanted,
    best,
    between,
    check_asked,
    check_between,
    checked,
    draw,
    draw_batch,
    reads_prompts,
    sides,
)


@dataclass(frozen=True)
class Batch:
    """Where an image was drawn among others. What an image shows does not depend on them, but its
    last bits do on how many they are.
    """

    size: int
    """Images at a time."""
    place: int
    """Its place among them."""
    length: int = 0
    """Tokens that prompts were padded to; 0: they are always as many."""


@dataclass(frozen=True)
class Drawn:
    """An image, in [-1, 1], of those that were wanted."""

    place: int
    """Which of them."""
    image: Float[Tensor, "c H W"]
    seed: int
    batch: Batch


Progress = Callable[[int], None]


@dataclass(frozen=True)
class Diffuser:
    """A diffusion pipeline, for images of `height` and `width` pixels, or of its own size, which
    are drawn over a picture if there is one.

    Raises:
        ValueError: the pipeline cannot do what is asked.
    """

    pipeline: Any
    sampling: Sampling
    over: Over | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_asked(self.caller, self.sampling)
        if self.over is None and (self.height or self.width):
            sides(self.pipeline, self.height, self.width)
        if self.over is not None:
            self.over.check(self.sampling.completed(self.pipeline).steps)

    @cached_property
    def caller(self) -> Any:
        """The pipeline that is called."""
        return self.pipeline if self.over is None else self.over.editor(self.pipeline)

    def check(self, wanted: Sequence[Wanted]) -> None:
        """Refuse images that it cannot draw.

        Raises:
            ValueError: one is between others, and there is no way for it.
        """
        if any(one.toward for one in wanted):
            check_between(self.caller)

    def draw(self, wanted: Sequence[Wanted], progress: Progress, length: int) -> Iterator[Drawn]:
        """All at once; `length` is not looked at."""
        generators = [torch.Generator().manual_seed(one.seed) for one in wanted]
        told: dict[str, Any] = {"generator": generators}
        if any(one.toward for one in wanted):
            told |= between(self.pipeline, wanted, generators, self.height, self.width,
                            self.sampling.precision)  # fmt: skip
        elif reads_prompts(self.pipeline):
            told["prompt"] = [one.prompt for one in wanted]
        else:
            told["batch_size"] = len(wanted)
        if self.over is not None:
            told |= self.over.told(len(wanted))
        else:
            asked = {"height": self.height, "width": self.width}
            told |= {name: side for name, side in asked.items() if side is not None}
        images = checked(draw_batch(self.caller, told, self.sampling))
        progress(len(wanted))
        for place, image in enumerate(images if self.over is None else self.over.kept(images)):
            yield Drawn(place, image, wanted[place].seed, Batch(len(wanted), place))


@dataclass(frozen=True)
class Continuer:
    """A transformer, which draws some candidates for each image, their seeds one after another, and
    keeps the likeliest.
    """

    pipeline: TokenPipeline
    sampling: TokenSampling
    top: Top | None = None
    candidates: int = 1

    def check(self, wanted: Sequence[Wanted]) -> None:
        """Refuse images that it cannot draw.

        Raises:
            ValueError: one names no class, where classes are what it knows.
        """
        self.pipeline.encode([one.prompt for one in wanted])

    def draw(self, wanted: Sequence[Wanted], progress: Progress, length: int) -> Iterator[Drawn]:
        """As soon as all candidates of an image are there; prompts are padded to `length`."""
        how, many = self.sampling, self.candidates
        prompts = [one.prompt for one in wanted for _ in range(many)]
        seeds = [one.seed + i for one in wanted for i in range(many)]
        first, waiting, batches = 0, torch.zeros(0), list[Batch]()
        for codes in draw(self.pipeline, prompts, seeds, how, self.top, progress, length):
            begun = first + len(waiting)
            padded = self.pipeline.encode(prompts[begun : begun + len(codes)]).tokens.shape[1]
            batches += [Batch(len(codes), i, max(padded, length)) for i in range(len(codes))]
            codes = torch.cat([waiting, codes]) if len(waiting) else codes
            whole = len(codes) // many * many
            said = prompts[first : first + whole]
            for place in best(self.pipeline, codes[:whole], said, many, how.batch_size):
                # One by one, so that nothing of a picture depends on the others.
                (image,) = checked(self.pipeline.decode(codes[place : place + 1]))
                at = first + place
                yield Drawn(at // many, image, seeds[at], batches[at])
            first, waiting = first + whole, codes[whole:]


Artist = Diffuser | Continuer


def again(artist: Artist, wanted: Wanted, batch: Batch) -> Float[Tensor, "c H W"]:
    """An image to the last bit as it was drawn: in the same place among as many, which are copies
    of it.
    """
    how = replace(artist.sampling, batch_size=batch.size)
    one = {"candidates": 1} if isinstance(artist, Continuer) else {}
    same = replace(artist, sampling=how, **one)
    images = list(same.draw([wanted] * batch.size, lambda images: None, batch.length))
    return images[batch.place].image
