"""More pictures of rare classes, in a folder by class, and what a classifier gains by them."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset

from calotype.commands.flags import check_counts
from calotype.commands.labelled import check_ahead, check_classes, listed, read_pictures
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform
from calotype.pipelines import picture
from calotype.tokenizers import ImageTokenizer
from calotype.training.agreement import by_main
from calotype.training.description import describe
from calotype.training.devices import Computation, computing
from calotype.training.files import publish, write_text
from calotype.training.images import Pixels, sent_images
from calotype.training.progress import say
from calotype.uses.augmenting import (
    Drawn,
    Gained,
    Judge,
    More,
    augmented,
    drawn,
    gained,
    methods,
)
from calotype.uses.classifiers import Images, Labels
from calotype.uses.resampling import Interpolation, Repetition

WARNING = (
    "What is made of few pictures knows no more of their class than these and what trained the "
    "tokenizer: where that has seen the others, as here perhaps, figures are too good."
)


@dataclass(frozen=True)
class Augment(Computation):
    """More pictures of rare classes: what lies in latents between the few that there are, or what
    a pipeline draws of their names; in a folder by class that any --data.path reads.
    """

    tokenizer: tyro.conf.Positional[str]
    """Folder of a tokenizer, ours or a stock one, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """Pictures whose captions are their classes, such as sub-folders give them."""
    rare: tuple[str, ...] = ()
    """Classes of which more are made; none: all that have fewer than --to."""
    to: int | None = None
    """Pictures that each of them is to have, with those that there are; None: as many as the
    largest class."""
    way: Interpolation | Repetition | Drawn = field(default_factory=Interpolation)
    """How they are made."""
    judge: Judge | None = None
    """Measure what a classifier of pixels gains, beside oversampling and mixing of pixels; nothing
    is written."""
    count: int | None = None
    """Pictures that are read, from all over the data; of a stream the first. None: all."""
    size: int | None = None
    """Pixels a side; None: as the tokenizer was trained, or 256 where it does not say."""
    batch_size: int = 64
    """Pictures at a time."""
    seed: int = 0
    """Of what is drawn."""
    out: Path = Path("augmented")
    """The folder to write: those that were read too, so that it alone is trained on. Of --judge it
    is figures.json alone that is in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "to", "count", "size", "batch_size")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ValueError(f"--out is {self.out}, which is there: name a new folder")
        if self.judge is not None and isinstance(self.way, Repetition):
            raise ValueError("--judge: oversampling is beside always: leave way:repetition out")


def augment(options: Augment) -> Path:
    """Make more, or judge; returns the folder. Of several processes the main one does.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, captions are no classes, none is
            rare, or a pipeline draws no such pictures.
    """
    quiet()
    return by_main(partial(_augment, options))


def _augment(options: Augment) -> Path:
    options.warn_of_emulation()
    dataset = options.data.build()
    _check_ahead(options, dataset)
    tokenizer = ImageTokenizer.load(options.tokenizer).to(options.place).eval()
    tokenizer.requires_grad_(False)
    size = options.size or tokenizer.sample_size
    tokenizer.check(size)
    transform = Transform(CenterCrop(size), mode=tokenizer.mode)
    way = options.way
    pipeline = (way.opened(size, tokenizer.mode, options.place) if isinstance(way, Drawn)
                else None)  # fmt: skip
    pixels, said = read_pictures(dataset, transform, options.count, options.batch_size)
    to, rare, names, labels = _classes(options, said)
    make = _maker(options, tokenizer, pipeline, names)
    known = torch.from_numpy(labels)
    with computing(options.precision, options.place, *tokenizer.networks):
        if options.judge is not None:
            return _judged(options, options.judge, tokenizer, make, pixels, known, names, rare)
        return _written(options, make, pixels, known, names, rare, to)


def _check_ahead(options: Augment, dataset: Dataset[Any]) -> None:
    """Refuse what captions alone tell to be wrong, where they are known without the pictures."""
    captions = listed(dataset, options.count)
    if captions is None:
        check_ahead(dataset, "data", options.count)
    else:
        _classes(options, captions)


def _classes(
    options: Augment, said: Sequence[str]
) -> tuple[int, set[int], list[str], np.ndarray]:  # fmt: skip
    """How many each rare class is to have, which these are, the names of all, and each picture's.

    Raises:
        ValueError: captions are no classes, none is rare, or there are too few to judge by.
    """
    check_classes(said, "data")
    classes, labels = np.unique(said, return_inverse=True)
    names, counts = classes.tolist(), Counter(labels.tolist())
    to, rare = _rare(options, counts, names)
    if options.judge is not None:
        options.judge.check({names[label]: count for label, count in sorted(counts.items())},
                            {names[label] for label in rare})  # fmt: skip
    return to, rare, names, labels


def _rare(
    options: Augment, counts: Counter[int], names: list[str]
) -> tuple[int, set[int]]:  # fmt: skip
    """How many each is to have, and the classes that have fewer.

    Raises:
        ValueError: a class is not there, no class is rare, or a name can be no folder's.
    """
    to = options.to or max(counts.values())
    if unknown := [name for name in options.rare if name not in names]:
        raise ValueError(f"--rare {unknown[0]}: no such class; there are {', '.join(names[:8])}"
                         f"{' and others' if len(names) > 8 else ''}")  # fmt: skip
    asked = {names.index(name) for name in options.rare} or {*counts}
    rare = {label for label in asked if counts[label] < to}
    if options.judge is not None and options.judge.examples is not None and options.rare:
        rare = asked  # they become rare in each draw
    if not rare:
        raise ValueError(f"no class has fewer than {to} pictures: name more with --to")
    for name in names:
        if "/" in name or name.startswith(".") or len(name.encode()) > 255:
            raise ValueError(f"class {name!r} cannot be the name of a folder: give shorter captions"
                             " without a slash")  # fmt: skip
    return to, rare


def _maker(
    options: Augment, tokenizer: ImageTokenizer, pipeline: Any, names: list[str]
) -> More:  # fmt: skip
    way = options.way
    if isinstance(way, Drawn):
        return way.maker(pipeline, names)
    if isinstance(way, Repetition):
        return lambda _, few, count, chance: way.more(few, count, chance)
    return lambda _, few, count, chance: augmented(tokenizer, few, count, way, chance,
                                              options.batch_size)  # fmt: skip


def _written(
    options: Augment, make: More, pixels: Pixels, labels: Labels, names: list[str],
    rare: set[int], to: int,
) -> Path:  # fmt: skip
    """Write the folder, all of it or nothing."""
    beside = options.out.with_name(f".{options.out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        for label, name in enumerate(names):
            own = pixels[labels == label]
            given = sent_images(own, options.place)
            _save(given, beside / name, "given")
            if label in rare:
                chance = torch.Generator().manual_seed(options.seed + label)
                made = make(label, given, to - len(own), chance)
                _save(made, beside / name, "made")
                say(f"{name}: {len(own)} given, {len(made)} made")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        publish(beside, options.out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return options.out


def _save(images: Images, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images.cpu()):
        picture(image).save(folder / f"{name}-{number:05}.png")


def _judged(
    options: Augment, judge: Judge, tokenizer: ImageTokenizer, make: More, pixels: Pixels,
    labels: Labels, names: list[str], rare: set[int],
) -> Path:  # fmt: skip
    """Print the table and write figures."""
    images, known = sent_images(pixels, options.place), labels.to(options.place)
    draws = {seed: drawn(images, known, rare, judge, seed)
             for seed in range(options.seed, options.seed + judge.draws)}  # fmt: skip
    one = draws[options.seed]
    to = options.to or max(Counter(one.labels.tolist()).values())
    way = options.way if isinstance(options.way, Interpolation) else Interpolation()
    makers = methods(tokenizer, way, options.batch_size)
    if isinstance(options.way, Drawn):
        makers[f"drawn by {options.way.pipeline}"] = make
    found = gained(draws, rare, makers, to, len(names), judge.classifier)
    few = min((one.labels == label).sum().item() for label in rare)
    title = (f"{', '.join(names[label] for label in sorted(rare))}: {few} or more to learn from, "
             f"made {to}; {judge.draws} draws")  # fmt: skip
    Console().print(_table(title, found))
    print(WARNING)
    said: dict[str, Any] = {
        "artifact": options.tokenizer, "rare": [names[label] for label in sorted(rare)],
        "to": to, "judge": describe(judge), "way": describe(options.way), "warning": WARNING,
        "figures": {name: asdict(each) for name, each in found.items()},
    }  # fmt: skip
    write_text(options.out / "figures.json", json.dumps(said, indent=1) + "\n")
    return options.out


def _table(title: str, found: dict[str, Gained]) -> Table:
    out = Table(title=title, title_justify="left")
    for column in ("", "recall of rare classes", "overall"):
        out.add_column(column, justify="left" if not column else "right")
    for name, each in found.items():
        out.add_row(name, *(f"{mean:.3f} +- {spread:.3f}"
                            for mean, spread in (each.recall, each.overall)))  # fmt: skip
    return out
