"""Measures of any tokenizer or pipeline, by the one protocol."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from calotype.commands.judging import Judging
from calotype.commands.quiet import quiet
from calotype.data import (
    Buckets,
    CenterCrop,
    Crop,
    Drawn,
    Folder,
    Scenes,
    Source,
    Transform,
    once,
)
from calotype.data.drawn.scenes import Scene
from calotype.data.pictures import spread
from calotype.evaluation.generator import Reference, evaluate_generator
from calotype.evaluation.glossary import LEGEND, glossed
from calotype.evaluation.prompts import ClipScore
from calotype.evaluation.report import described, flat, noted
from calotype.evaluation.tokenizer import Evaluation, Judges, evaluate_tokenizer
from calotype.pipelines import (
    Choice,
    HowToSample,
    Pipeline,
    Sampling,
    TokenPipeline,
    check_asked,
    checked,
    heeds,
    is_pipeline,
    load,
    mode_of,
    reads_prompts,
    recommended,
    sample,
    size_of,
    turns,
)
from calotype.tokenizers import ImageTokenizer
from calotype.training import Batch
from calotype.training.files import write_text
from calotype.training.images import Mode
from calotype.training.products import exact_products
from calotype.training.progress import Told, track
from calotype.training.run import describe

STEPS = (32, 16, 8, 4, 2)
"""Pixels that sides of whole pictures are multiples of: the most of which there are eight to the
square's side. They do not depend on the tokenizer, so that several are measured on the same."""


@dataclass(frozen=True, kw_only=True)
class Measuring(Judging):
    """On what, and by what."""

    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """Pictures that were not trained on; their captions are a generator's prompts."""
    count: int | None = 2048
    """So many pictures, from all over the data, or of a stream the first; None: all."""
    size: int | None = None
    """Pixels a side; pictures are resized and centre-cropped to it. None: as it was trained."""
    whole: bool = False
    """Of a tokenizer: pictures are resized and cropped to shapes of about that area, each to the
    one nearest its own, and not to squares. Of a picture up to twice as long as wide no more than
    12 % is cropped away."""
    clip: str | None = None
    """Of a generator: CLIP that scores images under their prompts, a folder or a name on the Hub,
    such as openai/clip-vit-base-patch16."""
    training: Source | None = None
    """Of a generator: pictures that it was trained on, to see whether it repeats them."""
    repeats: int = 1
    """Of a generator: images of each prompt; from 2 on their diversity is measured."""
    sampling: Choice = field(default_factory=Choice)
    """Of a generator."""
    batch_size: int = 32
    """Pictures at a time."""
    seed: int = 0
    """Of the images that a generator draws: image i has seed + i."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("count", "size", "repeats", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}: it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Measuring):
    """Measure a tokenizer or a pipeline on pictures, by the frozen protocol."""

    artifact: tyro.conf.Positional[str]
    """Folder of a tokenizer or a pipeline, ours or stock, or a name on the Hub."""
    out: Path = Path("evaluation.json")
    """The file to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out.is_dir():
            raise ValueError(f"--out is {self.out}, a folder: name a file, such as evaluation.json")


def evaluate(options: Evaluate) -> Path:
    """Measure, print a table and write JSON; returns the file.

    Raises:
        ValueError, FileNotFoundError: there is no such artifact, or something that measures it is
            missing; before any measuring.
    """
    options.out.parent.mkdir(parents=True, exist_ok=True)
    artifact = Artifact(options.artifact)
    found = Bench(options, artifact.size(options.size)).prepare(artifact)()
    write_text(options.out, json.dumps(described(options.artifact, found), indent=1) + "\n")
    console = Console()
    console.print(table(found))
    for line in [*noted(found.notes), LEGEND]:
        console.print(line, highlight=False)
    return options.out


class Artifact:
    """A tokenizer or a pipeline, from disk or the Hub.

    Raises:
        ValueError: there is none, or of a class that cannot be measured.
    """

    def __init__(self, path: str) -> None:
        quiet()
        self.path = path
        self.pipeline = load(path) if is_pipeline(path) else None
        self.tokenizer = None if self.pipeline else ImageTokenizer.load(path)
        found: Any = self.pipeline
        if getattr(found, "safety_checker", None):
            print(f"{path}: measured without its safety checker, which would black images out")
            found.safety_checker = None

    @property
    def part(self) -> Pipeline | ImageTokenizer:
        """Whichever it is."""
        found = self.pipeline or self.tokenizer
        assert found is not None
        return found

    def size(self, asked: int | None) -> int:
        """Pixels a side at which it is measured.

        Raises:
            ValueError: it cannot do what is asked.
        """
        if self.pipeline is not None:
            size = size_of(self.pipeline)
            if asked not in (None, size):
                raise ValueError(f"--size is {asked}, but {self.path} draws {size} pixels")
            return size
        assert self.tokenizer is not None
        size = asked or self.tokenizer.autoencoder.config.get("sample_size") or 256
        self.tokenizer.check(size)
        return size


class Bench:
    """Where artifacts are measured one after the other, on images of `size` pixels a side, by the
    same networks.

    Raises:
        ValueError: a network that measures cannot be had.
    """

    def __init__(self, how: Measuring, size: int) -> None:
        self.how, self.size, self.device = how, size, how.place
        how.warn_of_emulation()

    def prepare(self, artifact: Artifact) -> Callable[[], Evaluation]:
        """Open all that it takes; what it returns measures the artifact, and leaves it on the CPU
        again.

        Raises:
            ValueError, FileNotFoundError: something is not there, or does not fit.
        """
        if artifact.pipeline is not None:
            if self.how.whole:
                raise ValueError(
                    f"--whole: {artifact.path} draws images of one shape: leave it out"
                )
            work = self._generator(artifact.pipeline, recommended(artifact.path))
        else:
            assert artifact.tokenizer is not None
            work = self._tokenizer(artifact.tokenizer)

        def measure() -> Evaluation:
            artifact.part.to(self.device)
            with exact_products(), torch.random.fork_rng():
                # Some stock schedulers draw without a generator.
                torch.manual_seed(self.how.seed)
                found = work()
            artifact.part.to("cpu")
            return found

        return measure

    def _tokenizer(self, tokenizer: ImageTokenizer) -> Callable[[], Evaluation]:
        judges, how = self._judges, self.how
        crop = self._buckets(tokenizer) if how.whole else None
        seen = self._pictures(crop, tokenizer.mode)

        def work() -> Evaluation:
            found = evaluate_tokenizer(tokenizer, seen, judges, how.seed, precision=how.exactness)
            return replace(found, protocol=replace(found.protocol, size=self.size))

        return work

    def _buckets(self, tokenizer: ImageTokenizer) -> Buckets:
        """Of the measured pictures; several artifacts have them in common, whatever their factor.

        Raises:
            ValueError: there are none of this size, or the tokenizer encodes none of them.
        """
        fitting = (s for s in STEPS if self.size % (8 * s) == 0 and s % tokenizer.factor == 0)
        if (step := next(fitting, None)) is None:
            raise ValueError(
                f"--whole: shapes of about {self.size}x{self.size} pixels have no sides that are "
                f"multiples of the tokenizer's factor, {tokenizer.factor}: choose a larger --size"
            )
        return Buckets(self.size, step, place="centre")

    def _generator(self, pipeline: Pipeline, recommended: HowToSample) -> Callable[[], Evaluation]:
        how = self.how
        sampling = replace(how.sampling.over(recommended), precision=how.exactness)
        training, mode = None, mode_of(pipeline)
        if how.training is not None:
            training = pictures(how.training, self.size, how.batch_size, None, mode=mode)
        scenes = self._scenes() if mode == "RGB" else None  # they are told by their colours
        reference = Reference(self._pictures(mode=mode), reads_prompts(pipeline), scenes, training,
                              how.repeats)  # fmt: skip
        clip = self._clip
        said = describe(sampling)
        if not isinstance(pipeline, TokenPipeline):
            assert isinstance(sampling, Sampling)
            said = describe(sampling.completed(pipeline))
            said = {name: said[name] for name in (*heeds(pipeline), "batch_size", *sampling.said)}
            said["scheduler"] = sampling.scheduler or type(pipeline.scheduler).__name__
            check_asked(pipeline, sampling)
        judges = self._judges_of_draws

        def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Tensor]:
            with Told("drawing", len(prompts) * turns(pipeline)) as told:
                yield from map(checked, sample(pipeline, prompts, seeds, sampling, told.advance))

        return lambda: evaluate_generator(
            draw, reference, judges, how.seed, clip, said, how.exactness, self.device
        )

    def _scenes(self) -> list[Scene] | None:
        if not isinstance(self.how.data, Scenes):
            return None
        dataset = self.how.data.build()
        return [dataset.scene(i) for i in range(min(self.how.count or len(dataset), len(dataset)))]

    def _pictures(self, crop: Crop | None = None, mode: Mode = "RGB") -> Iterator[Batch]:
        how = self.how
        found = pictures(how.data, self.size, how.batch_size, how.count, crop, mode)
        return track(found, "batches of pictures", None, how.batch_size)  # there may be fewer

    @cached_property
    def _clip(self) -> ClipScore | None:
        return ClipScore(self.how.clip, self.device) if self.how.clip else None

    @cached_property
    def _judges(self) -> Judges:
        return self.how.judges(self.size)

    @cached_property
    def _judges_of_draws(self) -> Judges:
        return self.how.judges(None)


def pictures(
    source: Source, size: int, each: int, count: int | None, crop: Crop | None = None,
    mode: Mode = "RGB",
) -> Iterator[Batch]:  # fmt: skip
    """Batches of `count` pictures all over a source, of `size` pixels a side, or cropped otherwise,
    in a mode; None: all. Of a stream, or of scenes, which are all alike, they are the first.

    Raises:
        ValueError, FileNotFoundError: there are none; before the first batch is asked for.
    """
    drawn = isinstance(source, Drawn)  # at any size
    dataset = spread((replace(source, size=size) if drawn else source).build(), count)
    as_drawn = drawn and mode == "RGB"
    transform = None if as_drawn else Transform(crop or CenterCrop(size), mode=mode)
    batches = once(dataset, each, transform)
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{type(source).__name__} has no pictures to measure on")
    return _cut(chain([first], batches), count)


def _cut(batches: Iterable[Batch], count: int | None) -> Iterator[Batch]:
    left = count
    for batch in batches:
        kept = batch if left is None else {name: values[:left] for name, values in batch.items()}
        yield kept
        if left is not None and (left := left - len(kept["image"])) == 0:
            return


def table(found: Evaluation) -> Table:
    """For a person."""
    how = found.protocol
    out = Table(
        title=f"{how.images} pictures of {how.size} pixels, {how.digest}",
        caption=f"protocol {how.version}, {how.precision} on {how.device}, features {how.features}",
    )
    out.add_column("figure")
    out.add_column("value", justify="right")
    for name, value in flat({**found.figures, **found.health, **found.speed}):
        error = f" ± {found.errors[name]:.2g}" if name in found.errors else ""
        mark = " *" if name in found.notes else ""
        out.add_row(glossed(name), f"{value}{error}{mark}")
    return out
