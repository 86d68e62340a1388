"""Images from prompts, by a trained pipeline."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import tyro

from calotype.commands.artist import Artist, Continuer, Diffuser, again
from calotype.commands.drawings import Drawings, Planned
from calotype.commands.flags import check_counts
from calotype.commands.likeness import Likeness, compared, model_of, read, written
from calotype.commands.paths import Between, frames, row
from calotype.commands.pictures import ImageOf, TopOf, over_of, restored, sources, top_of
from calotype.commands.prompts import STDIN, check_prompts, read_prompts
from calotype.commands.quiet import quiet
from calotype.pipelines import (
    Choice,
    HowToSample,
    Pipeline,
    Sampling,
    TokenPipeline,
    Wanted,
    for_tokens,
    load,
    reads_prompts,
    recommended,
    turns,
)
from calotype.pipelines.folders import fingerprint, pipelines_under
from calotype.training.agreement import agree_to_share, by_main
from calotype.training.description import describe
from calotype.training.devices import Computation, threads
from calotype.training.distributed import processes
from calotype.training.hosts import check_shared
from calotype.training.progress import Told
from calotype.training.sharing import wait_for_all

RUNS = Path("runs")
SEEDS = 2**64
"""torch's generators know so many."""
GRID = 1024
"""Most pictures of a grid."""


@dataclass(frozen=True)
class Generate(Computation):
    """Draw images from prompts with a trained pipeline."""

    prompt: tyro.conf.Positional[tuple[str, ...]]
    """What to draw, each in quotes; none where the pipeline was trained without captions."""
    pipeline: str | None = None
    """Folder of a pipeline, or a name on the Hub; None: the newest one under runs/."""
    out: Path = Path("generated")
    """Folder of the PNG files, named by number, prompt and seed; numbers go on from those there.
    Small ones are enlarged beside, with their prompts, as sheet-*.png, and drawn.jsonl says which
    pipeline drew what. What is there already is not drawn again: stopped and started again, it
    goes on, and several processes share the work."""
    images: int = 1
    """Images of each prompt."""
    seed: int = 0
    """Of the first image of each prompt; the next ones count up."""
    prompts: Path | None = None
    """A text file of prompts, one a line, instead of those on the command line; -: standard
    input."""
    width: int | None = None
    """Pixels; None: as training had them. Of a diffusion pipeline that reads prompts, or of a
    transformer one of the shapes that it was trained on."""
    height: int | None = None
    """Pixels, likewise."""
    grid: bool = False
    """Write all pictures as one, too, those of a prompt in a row: grid-*.png."""
    like: Path | None = None
    """A PNG that was drawn so: draw it again, as what stands in it says."""
    image: ImageOf | None = None
    """A picture to draw over, all of it or a part; without prompts, variations of it. Of a
    diffusion pipeline that reads prompts."""
    between: Between | None = None
    """Draw what lies between two prompts, or between two seeds; None: nothing does."""
    candidates: int = 1
    """Draw so many for each image, with seeds of their own, and keep the likeliest under the
    prompt; of a transformer."""
    top: TopOf | None = None
    """What images begin with; None: nothing."""
    sampling: Choice = field(default_factory=Choice)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "images", "candidates", "width", "height")
        seeds = self.images * self.candidates
        last = self.seed + max(seeds, getattr(self.between, "seeds", 0))
        if not 0 <= self.seed < SEEDS or last > SEEDS:
            raise ValueError(
                f"--seed is {self.seed}: seeds lie from 0 to 2**64 - 1, with those that count up"
            )
        check_prompts(self.prompt)
        if self.prompt and self.prompts is not None:
            raise ValueError("--prompts: prompts are on the command line too: give them in one way")
        if self.image is not None and (self.between or self.top):
            raise ValueError(f"--image goes with no {'between' if self.between else '--top'}")
        if self.between is not None and self.images > 1:
            raise ValueError("--images: how many lie between two is --between.images")
        if self.like is not None:
            self._check_alone()

    def _check_alone(self) -> None:
        """See that what a PNG says is not said otherwise, too."""
        free = replace(self, like=None, pipeline=None, out=Generate.out, device="auto", prompt=())
        if self.prompt or free != Generate(()):
            raise ValueError(
                "--like draws what the PNG says: beside it only --pipeline, --out and --device "
                "have a say"
            )


def generate(options: Generate) -> Path:
    """Draw and save; returns the folder.

    Raises:
        ValueError: there is no such pipeline, or it cannot do what is asked.
    """
    quiet()
    if options.like is not None:
        return _like(options, options.like) if processes().is_main_process else options.out
    asked = options.prompt if options.prompts is None else _from_file(options.prompts)
    wanted = list(_wanted(options, asked or ("",)))
    if options.between is None and (again := len(asked) - len({*asked})):
        _say(f"{again} of {len(asked)} prompts repeat others and are left out: --images says how "
             "many of each")  # fmt: skip
    if options.grid and len(wanted) > GRID:
        raise ValueError(f"--grid is for {GRID} pictures at most, and these are {len(wanted)}")
    path = options.pipeline or _newest()
    how = options.sampling.over(recommended(path))
    _check_kind(options, how)
    options.warn_of_emulation()
    pipeline = _shaped(options, load(path))
    how = replace(how, precision=options.exactness)
    if isinstance(how, Sampling) and not isinstance(pipeline, TokenPipeline):
        how = how.completed(pipeline)  # so that drawn.jsonl says it
    _check_prompts(asked, options, pipeline)
    drawer = _artist(options, pipeline, how)
    drawer.check(wanted)
    by = {"pipeline": path, "fingerprint": fingerprint(pipeline), "sampling": describe(how),
          "precision": options.exactness, "device": str(options.place)}  # fmt: skip
    given = sources(image=options.image, top=options.top)
    plan = [Likeness(one, model_of(path), by["fingerprint"], how, options.height, options.width,
                     given) for one in wanted]  # fmt: skip
    agree_to_share(pipeline=lambda: by["fingerprint"], plan=lambda: [one.key for one in plan])
    check_shared(options.out, "--out")
    pipeline.to(options.place)
    with Drawings(options.out, by) as drawings:
        _draw(options, drawer, plan, drawings, turns(pipeline))
    return options.out


def _draw(
    options: Generate, drawer: Artist, plan: Sequence[Likeness], drawings: Drawings, each: int
) -> None:
    """Draw what is planned and neither there nor being drawn by another process."""
    # One of many is another picture than the one of that seed.
    kind = f"-of-{options.candidates}" if options.candidates > 1 else ""
    of = {likeness.key + kind: likeness for likeness in plan}
    seeds = range(options.candidates)
    left = drawings.plan([
        Planned(key, one.wanted.prompt, [one.wanted.seed + i for i in seeds],
                one.wanted.toward and asdict(one.wanted.toward))
        for key, one in of.items()
    ])  # fmt: skip
    if left < len(of):
        _say(f"{len(of) - left} of {len(of)} are in {options.out} already")
    drawings.left = by_main(lambda: drawings.left)  # before any of them is drawn
    many = _at_a_time(drawer, options, len(drawings.left))
    counted = "tokens" if isinstance(drawer, Continuer) else "steps"
    with Told(f"drawing, {counted}", left * options.candidates * each) as told:
        for numbers in drawings.claimed(many):
            batch = [of[drawings.planned[number].key] for number in numbers]
            for drawn in drawer.draw([one.wanted for one in batch], told.advance, 0):
                one = batch[drawn.place]
                kept = replace(one, wanted=replace(one.wanted, seed=drawn.seed))
                how = written(kept, drawn.batch, options.place)
                drawings.add(drawn.image, one.wanted.prompt, drawn.seed,
                             numbers[drawn.place], how)  # fmt: skip
    wait_for_all()  # the last pictures of other ranks are there, too
    if not processes().is_main_process:
        return
    if processes().num_processes > 1:
        drawings.show_all()
    if missing := drawings.missing():
        _say(f"{missing} of {len(of)} are being drawn by another process")
    elif options.grid:
        _say(f"grid: {drawings.grid(_columns(options, len(of)))}")
    _say_seeds(options)


def _at_a_time(drawer: Artist, options: Generate, left: int) -> int:
    """Images at a time: as one process would, or fewer, so that each rank has some."""
    many = max(1, drawer.sampling.batch_size // options.candidates)
    world = processes().num_processes
    few = max(1, -(-left // world))
    if few < min(many, left):
        _say(f"{few} images at a time, so that each of {world} processes has some; of one process, "
             "which draws more at a time, the last bits may be others")  # fmt: skip
    return min(many, few)


def _like(options: Generate, file: Path) -> Path:
    """Draw what a PNG says again."""
    likeness, batch, by = read(file)
    found = {name: restored(name, said, file.parent) for name, said in likeness.sources.items()}
    asked = replace(
        options, like=None, height=likeness.height, width=likeness.width,
        precision=likeness.sampling.precision, **found,
    )  # fmt: skip
    path = options.pipeline or likeness.pipeline(file)
    pipeline = load(path)
    if (here := fingerprint(pipeline)) != likeness.fingerprint:
        raise ValueError(
            f"--like: {file} was drawn by {likeness.fingerprint}, and the pipeline in {path} is "
            f"{here} now: name the other with --pipeline"
        )
    pipeline = _shaped(asked, pipeline)
    drawer = _artist(asked, pipeline, likeness.sampling)
    pipeline.to(options.place)
    # The last bits may depend on how many threads share the work, too.
    with threads(by.get("threads") if options.place.type == "cpu" else None):
        image = again(drawer, likeness.wanted, batch)
    by_now = {"pipeline": path, "fingerprint": here, "sampling": describe(likeness.sampling),
              "precision": likeness.sampling.precision, "device": str(options.place)}  # fmt: skip
    with Drawings(options.out, by_now) as drawings:
        how = written(likeness, batch, options.place)
        made = drawings.add(image, likeness.wanted.prompt, likeness.wanted.seed, None, how)
    _say(f"{made}: {compared(image, file, by)}")
    return options.out


def _shaped(options: Generate, pipeline: Pipeline) -> Pipeline:
    """A transformer for images of the sides that are asked for."""
    if isinstance(pipeline, TokenPipeline):
        return pipeline.shaped(options.height, options.width)
    return pipeline


def _artist(options: Generate, pipeline: Pipeline, how: HowToSample) -> Artist:
    if isinstance(pipeline, TokenPipeline):
        top = options.top and top_of(options.top, pipeline)
        return Continuer(pipeline, for_tokens(how), top, options.candidates)
    assert isinstance(how, Sampling)
    over = options.image and over_of(options.image, pipeline, options.height, options.width)
    return Diffuser(pipeline, how, over, options.height, options.width)


def _wanted(options: Generate, prompts: Sequence[str]) -> Iterator[Wanted]:
    if options.between is not None:
        yield from frames(options.between, prompts, options.seed)
        return
    seeds = range(options.seed, options.seed + options.images * options.candidates,
                  options.candidates)  # fmt: skip
    for prompt in dict.fromkeys(prompts):
        yield from (Wanted(prompt, seed) for seed in seeds)


def _columns(options: Generate, count: int) -> int:
    if options.between is not None:
        return row(options.between, len(options.prompt))
    # Of one picture of each prompt there are no rows.
    return options.images if options.images > 1 else max(1, round(count**0.5))


def _from_file(path: Path) -> tuple[str, ...]:
    if path == STDIN and processes().num_processes > 1:
        raise ValueError("--prompts -: several processes cannot share standard input: name a file")
    return read_prompts(path)


def _newest() -> str:
    found = next(iter(pipelines_under(RUNS)), None)
    if found is None:
        raise ValueError(
            f"no pipeline under {RUNS}/ yet: `calotype demo` and `calotype train-generator` make "
            "one; or name one with --pipeline"
        )
    _say(f"drawing with {found}, the newest pipeline under {RUNS}/; --pipeline names another")
    return str(found)


def _check_kind(options: Generate, how: HowToSample) -> None:
    """Refuse what a pipeline of this kind cannot do, before it is loaded.

    Raises:
        ValueError: that is asked for.
    """
    if isinstance(how, Sampling):
        other, what = ("top", "candidates"), "a transformer, and this is a diffusion pipeline"
    else:
        other = ("image", "between")
        what = "a diffusion pipeline, and this is a transformer"
    for name in other:
        if getattr(options, name) not in (None, 1):
            raise ValueError(f"--{name} is for {what}{_another(type(how))}")


def _another(kind: type[HowToSample]) -> str:
    """The newest pipeline under runs/ that is not called so; nothing, if there is none."""
    found = (each for each in pipelines_under(RUNS) if not isinstance(recommended(each), kind))
    return next((f": name one by --pipeline {each}" for each in found), "")


def _check_prompts(asked: Sequence[str], options: Generate, pipeline: Pipeline) -> None:
    if not asked and reads_prompts(pipeline) and options.image is None:
        raise ValueError("no prompts: say what to draw, in quotes")
    if any(asked) and not reads_prompts(pipeline):
        raise ValueError(
            "this pipeline was trained without captions and reads no prompts: leave them out; "
            "--images says how many to draw, --seed which"
        )
    # Lines of a file are prompts, whatever they look like.
    words = len(options.prompt) > 1 and not any(" " in prompt for prompt in asked)
    if words and not (isinstance(pipeline, TokenPipeline) and pipeline.knows_classes):
        _say(f"{len(asked)} prompts of one word each; one of several words stands in quotes")


def _say_seeds(options: Generate) -> None:
    if options.between is not None:
        return
    first, last = options.seed, options.seed + options.images * options.candidates - 1
    taken = f"seed {first}" if first == last else f"seeds {first} to {last}"
    _say(f"{taken} of each prompt; --seed {last + 1} draws others")


def _say(line: str) -> None:
    if processes().is_main_process:
        print(line)
