"""Images from prompts, by a trained pipeline."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from calotype.commands.drawings import Drawings
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Transform
from calotype.data.images import read_image
from calotype.data.pictures import Example
from calotype.pipelines import (
    Choice,
    HowToSample,
    Pipeline,
    Sampling,
    TokenPipeline,
    Top,
    best,
    checked,
    draw,
    for_tokens,
    load,
    reads_prompts,
    recommended,
    sample,
    turns,
)
from calotype.pipelines.folders import fingerprint, newest
from calotype.training.devices import Computation
from calotype.training.progress import Told
from calotype.training.run import describe

RUNS = Path("runs")


@dataclass(frozen=True)
class TopOf:
    """The top part of a picture, as the tokenizer rebuilds it, which images are to continue; of a
    transformer.
    """

    path: Path
    """The picture; it is resized and centre-cropped to the pipeline's size."""
    part: float = 0.5
    """How much of it stands, from its top, in whole rows of sites."""

    def __post_init__(self) -> None:
        if not 0 < self.part < 1:
            raise ValueError(f"--top.part is {self.part}: it lies between 0 and 1")


@dataclass(frozen=True)
class Generate(Computation):
    """Draw images from prompts with a trained pipeline."""

    prompts: tyro.conf.Positional[tuple[str, ...]]
    """What to draw, each in quotes; none where the pipeline was trained without captions."""
    pipeline: str | None = None
    """Folder of a pipeline, or a name on the Hub; None: the newest one under runs/."""
    out: Path = Path("generated")
    """Folder of the PNG files, named by number, prompt and seed; numbers go on from those there.
    Small ones are enlarged beside, with their prompts, as sheet-*.png, and drawn.jsonl says which
    pipeline drew what."""
    images: int = 1
    """Images of each prompt."""
    seed: int = 0
    """Of the first image of each prompt; the next ones count up."""
    candidates: int = 1
    """Draw so many for each image, with seeds of their own, and keep the likeliest under the
    prompt; of a transformer."""
    top: TopOf | None = None
    """What images begin with; None: nothing."""
    sampling: Choice = field(default_factory=Choice)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("images", "candidates"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name} is {value}: it must be at least 1")


def generate(options: Generate) -> Path:
    """Draw and save; returns the folder.

    Raises:
        ValueError: there is no such pipeline, or it cannot do what is asked.
    """
    quiet()
    path = options.pipeline or _newest()
    how = options.sampling.over(recommended(path))
    options.warn_of_emulation()
    sampling = replace(how, precision=options.exactness)
    pipeline = load(path)
    _check(options, pipeline)
    if isinstance(sampling, Sampling) and not isinstance(pipeline, TokenPipeline):
        sampling = sampling.completed(pipeline)  # so that drawn.jsonl says it
    by = {"pipeline": path, "fingerprint": fingerprint(pipeline), "sampling": describe(sampling),
          "precision": options.exactness, "device": str(options.place)}  # fmt: skip
    pipeline = pipeline.to(options.place)
    asked = options.prompts or ("",)
    each = range(options.seed, options.seed + options.images * options.candidates)
    prompts = [prompt for prompt in asked for _ in each]
    seeds = [seed for _ in asked for seed in each]
    total = len(prompts) * turns(pipeline)
    with Told("drawing", total) as told, Drawings(options.out, by) as drawings:
        drawn = _drawn(options, pipeline, prompts, seeds, sampling, told.advance)
        for place, image in drawn:
            drawings.add(image, prompts[place], seeds[place])
    taken = f"seed {each[0]}" if len(each) == 1 else f"seeds {each[0]} to {each[-1]}"
    print(f"{taken} of each prompt; --seed {each[-1] + 1} draws others")
    return options.out


def _newest() -> str:
    found = newest(RUNS)
    if found is None:
        raise ValueError(
            f"no pipeline under {RUNS}/ yet: `calotype demo` and `calotype train-generator` make "
            "one; or name one with --pipeline"
        )
    print(f"drawing with {found}, the newest pipeline under {RUNS}/; --pipeline names another")
    return str(found)


def _check(options: Generate, pipeline: Pipeline) -> None:
    asked = options.prompts
    if not asked and reads_prompts(pipeline):
        raise ValueError("no prompts: say what to draw, in quotes")
    if any(asked) and not reads_prompts(pipeline):
        raise ValueError(
            "this pipeline was trained without captions and reads no prompts: leave them out; "
            "--images says how many to draw, --seed which"
        )
    if isinstance(pipeline, TokenPipeline):
        pipeline.encode(asked)  # that each is a class, where classes are what it knows
    words = len(asked) > 1 and not any(" " in prompt for prompt in asked)
    if words and not (isinstance(pipeline, TokenPipeline) and pipeline.knows_classes):
        print(f"{len(asked)} prompts of one word each; one of several words stands in quotes")
    if isinstance(pipeline, TokenPipeline):
        return
    for name, given in (("top", options.top), ("candidates", options.candidates > 1)):
        if given:
            raise ValueError(f"--{name} is for a transformer, and this is a diffusion pipeline")


def _drawn(
    options: Generate, pipeline: Pipeline, prompts: Sequence[str], seeds: Sequence[int],
    sampling: HowToSample, progress: Callable[[int], None],
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """Images that are kept, and their places among the prompts."""
    if not isinstance(pipeline, TokenPipeline):
        batches = sample(pipeline, prompts, seeds, sampling, progress)
        yield from enumerate(image for batch in batches for image in checked(batch))
        return
    how, many = for_tokens(sampling), options.candidates
    top = options.top and _top(options.top, pipeline)
    first, waiting = 0, []
    for batch in draw(pipeline, prompts, seeds, how, top, progress):
        # As soon as all candidates of an image are there, so that it is saved before the next.
        codes = torch.cat([*waiting, batch])
        whole = len(codes) // many * many
        places = best(pipeline, codes[:whole], prompts[first : first + whole], many, how.batch_size)
        for place, image in zip(places, checked(pipeline.decode(codes[places])), strict=True):
            yield first + place, image
        first, waiting = first + whole, [codes[whole:]]


def _top(asked: TopOf, pipeline: TokenPipeline) -> Top:
    rows = round(asked.part * pipeline.layout.height)
    if not 0 < rows < pipeline.layout.height:
        raise ValueError(
            f"--top.part is {asked.part}: of {pipeline.layout.height} rows it leaves "
            f"{'none' if rows == 0 else 'nothing to draw'}"
        )
    example: Example = {"image": read_image(asked.path, str(asked.path)), "caption": ""}
    crop = Transform(CenterCrop(pipeline.size))
    image = crop(example, np.random.default_rng(0))["image"]
    return Top(image[None], rows)
