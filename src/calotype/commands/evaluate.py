"""Measures of any tokenizer or pipeline, by the one protocol."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from calotype.commands.artifact import Artifact
from calotype.commands.flags import check_counts
from calotype.commands.judging import Judging
from calotype.commands.whole import whole_shapes
from calotype.data import (
    CenterCrop,
    Crop,
    Drawn,
    Folder,
    Scenes,
    Source,
    Transform,
)
from calotype.data.aspect.buckets import Listed
from calotype.data.drawn.scenes import Scene
from calotype.data.loading.passes import Turn, own_turns
from calotype.data.pictures import spread
from calotype.evaluation.generator import Reference, survey_generator
from calotype.evaluation.glossary import LEGEND, glossed
from calotype.evaluation.judges import Evaluation, Judges
from calotype.evaluation.likelihood import Importance
from calotype.evaluation.prompts import ClipScore
from calotype.evaluation.report import described, flat, noted
from calotype.evaluation.tokenizer import survey_tokenizer
from calotype.pipelines import (
    Choice,
    HowToSample,
    Pipeline,
    Sampling,
    TokenPipeline,
    check_asked,
    checked,
    heeds,
    mode_of,
    reads_prompts,
    recommended,
    sample,
)
from calotype.pipelines.folders import fingerprint
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms import Likelihood
from calotype.training.agreement import agree_to_share
from calotype.training.description import describe
from calotype.training.distributed import processes
from calotype.training.files import write_text
from calotype.training.images import Mode
from calotype.training.products import exact_products
from calotype.training.progress import track
from calotype.training.weights import weights_of

R = TypeVar("R")
Survey = Callable[[], Callable[[], Evaluation]]
"""Looks at all there is to see; what it returns makes figures of it."""


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
    importance_samples: int = 64
    """Of a tokenizer whose pixels and latents have a likelihood: latents drawn of each picture to
    tell how likely that is, each of which is decoded. 0: it is not told. 200 or 5000 are
    published."""
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
        check_counts(self, "count", "size", "repeats", "batch_size")
        if (samples := self.importance_samples) < 0:
            raise ValueError(f"--importance-samples is {samples}: it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Measuring):
    """Measure a tokenizer or a pipeline on pictures, by the frozen protocol. Processes of a
    launcher share them.
    """

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
    if main := processes().is_main_process:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    artifact = Artifact(options.artifact)
    figures = Bench(options, artifact.size(options.size)).prepare(artifact)()
    if not main:
        return options.out
    found = figures()
    write_text(options.out, json.dumps(described(options.artifact, found), indent=1) + "\n")
    console = Console()
    console.print(table(found))
    for line in [*noted(found.notes), LEGEND]:
        console.print(line, highlight=False)
    return options.out


class Bench:
    """Where artifacts are measured one after the other, on images of `size` pixels a side, by the
    same networks.

    Raises:
        ValueError: a network that measures cannot be had.
    """

    def __init__(self, how: Measuring, size: int) -> None:
        self.how, self.size, self.device = how, size, how.place
        how.warn_of_emulation()

    def prepare(self, artifact: Artifact) -> Survey:
        """Open all that it takes; what it returns looks at all there is to see, which ranks share,
        and returns what makes figures of that, for the main process to call. Both leave the
        artifact on the CPU.

        Raises:
            ValueError, FileNotFoundError: something is not there, or does not fit.
        """
        if artifact.pipeline is not None:
            if self.how.whole:
                raise ValueError(
                    f"--whole: {artifact.path} draws images of one shape: leave it out"
                )
            agree_to_share(pipeline=partial(fingerprint, artifact.pipeline))
            work = self._generator(artifact.pipeline, recommended(artifact.path))
        else:
            assert artifact.tokenizer is not None
            agree_to_share(tokenizer=partial(weights_of, artifact.tokenizer))
            work = self._tokenizer(artifact.tokenizer, artifact.likelihood)

        def there(act: Callable[[], R]) -> R:
            artifact.part.to(self.device)
            with exact_products(), torch.random.fork_rng():
                found = act()
            artifact.part.to("cpu")
            return found

        def survey() -> Callable[[], Evaluation]:
            figures = there(work)
            return lambda: there(figures)

        return survey

    def _tokenizer(self, tokenizer: ImageTokenizer, term: Likelihood | None) -> Survey:
        judges, how = self._judges, self.how
        likely = None
        if term is not None and how.importance_samples:
            likely = Importance(term.to(self.device), how.importance_samples)
        crop = whole_shapes(self.size, tokenizer.factor) if how.whole else None
        seen = self._pictures(crop, tokenizer.mode)

        def work() -> Callable[[], Evaluation]:
            found = survey_tokenizer(tokenizer, seen, judges, how.seed, precision=how.exactness,
                                     importance=likely)  # fmt: skip
            return lambda: self._sized(found())

        return work

    def _sized(self, found: Evaluation) -> Evaluation:
        """Of whole pictures the first one's shape says little."""
        return replace(found, protocol=replace(found.protocol, size=self.size))

    def _generator(self, pipeline: Pipeline, recommended: HowToSample) -> Survey:
        how = self.how
        sampling = replace(how.sampling.over(recommended), precision=how.exactness)
        training, mode, crop = None, mode_of(pipeline), _oblong(pipeline)
        if how.training is not None:
            training = pictures(how.training, self.size, how.batch_size, None, crop, mode)
        scenes = self._scenes() if mode == "RGB" else None  # they are told by their colours
        reference = Reference(self._pictures(crop, mode), reads_prompts(pipeline), scenes, training,
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
            yield from map(checked, sample(pipeline, prompts, seeds, sampling))

        return lambda: survey_generator(
            draw, reference, judges, how.seed, clip, said, how.exactness, self.device,
            sampling.batch_size,
        )  # fmt: skip

    def _scenes(self) -> list[Scene] | None:
        if not isinstance(self.how.data, Scenes):
            return None
        dataset = self.how.data.build()
        return [dataset.scene(i) for i in range(min(self.how.count or len(dataset), len(dataset)))]

    def _pictures(self, crop: Crop | None = None, mode: Mode = "RGB") -> Iterator[Turn]:
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


def _oblong(pipeline: Pipeline) -> Listed | None:
    """The crop to what a pipeline draws, where that is no square."""
    if not isinstance(pipeline, TokenPipeline) or len({*pipeline.shape}) == 1:
        return None
    return Listed(listed=(pipeline.shape,))


def pictures(
    source: Source, size: int, each: int, count: int | None, crop: Crop | None = None,
    mode: Mode = "RGB",
) -> Iterator[Turn]:  # fmt: skip
    """Batches of `count` pictures all over a source, of `size` pixels a side, or cropped otherwise,
    in a mode; None: all. Of a stream, or of scenes, which are all alike, they are the first. Ranks
    have turns.

    Raises:
        ValueError, FileNotFoundError: there are none; before the first batch is asked for.
    """
    drawn = isinstance(source, Drawn)  # at any size
    dataset = spread((replace(source, size=size) if drawn else source).build(), count)
    as_drawn = drawn and mode == "RGB"
    transform = None if as_drawn else Transform(crop or CenterCrop(size), mode=mode)
    turns = own_turns(dataset, each, transform, count=count)
    if processes().num_processes > 1:
        return turns  # a rank may have none; how many there are is looked at in the end
    first = next(turns, None)
    if first is None:
        raise ValueError(f"{type(source).__name__} has no pictures to measure on")
    return chain([first], turns)


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
