"""What simple readers make of a tokenizer's latents, beside what they make of pixels."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset

from calotype.commands.flags import check_counts
from calotype.commands.labelled import check_ahead, check_learnable, classes_of
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform, some_of
from calotype.tokenizers import ImageTokenizer
from calotype.training.agreement import by_main
from calotype.training.devices import Computation, computing
from calotype.training.files import write_text
from calotype.training.images import Pixels
from calotype.training.objective import Batch
from calotype.training.progress import track
from calotype.uses.probing import Probe, Probed, Vectors, chance, halves, probe
from calotype.uses.representations import (
    Representation,
    of_latents,
    of_pixels,
    of_vision_model,
    untrained,
)

WARNING = (
    "Only what stands above every control is the training's. A tokenizer is trained to rebuild: "
    "that its latents tell a label shows neither that it understands it nor that another set's "
    "labels would be told."
)


@dataclass(frozen=True)
class ProbeLatents(Computation):
    """How much of labels simple readers tell by a tokenizer's latents: linear, by few labels, by
    neighbours, by retrieval; always beside pixels and the same tokenizer untrained.
    """

    tokenizer: tyro.conf.Positional[str]
    """Folder of a tokenizer, ours or a stock one, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """Pictures whose captions are their classes, such as sub-folders give them."""
    factor: int | None = None
    """Which true factor of data that tells them, such as data:shapes, is the class; None: the
    caption."""
    transfer: Path | None = None
    """A folder of other pictures, in sub-folders by class, that are read too."""
    beside: str | None = None
    """A vision transformer of transformers that is read too, trained and untrained: a folder, such
    as train-encoder leaves, or a name on the Hub."""
    held_out: float = 0.25
    """Part of each class that is not learnt from."""
    count: int | None = None
    """Pictures, from all over the data; of a stream the first. None: all."""
    size: int | None = None
    """Pixels a side; None: as the tokenizer was trained, or 256 where it does not say."""
    batch_size: int = 32
    """Pictures at a time."""
    probe: Probe = field(default_factory=Probe)
    out: Path = Path("probe.json")
    """The file to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "count", "size", "batch_size")
        if self.factor is not None and self.factor < 0:
            raise ValueError(f"--factor is {self.factor}: factors are numbered from 0")
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held-out is {self.held_out}: it must lie between 0 and 1")
        if self.out.is_dir():
            raise ValueError(f"--out is {self.out}, a folder: name a file, such as probe.json")


def probe_latents(options: ProbeLatents) -> Path:
    """Probe, print a table and write JSON; returns the file. Of several processes the main one
    does.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, or captions are no classes.
    """
    quiet()
    return by_main(lambda: _probe(options))


def _probe(options: ProbeLatents) -> Path:
    options.warn_of_emulation()
    sets: dict[str, Dataset[Any]] = {"data": options.data.build()}
    if options.transfer is not None:
        sets["transfer"] = Folder(options.transfer).build()
    check_ahead(sets["data"], "data", options.count, options.factor)
    if options.transfer is not None:
        check_ahead(sets["transfer"], "transfer", None)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = ImageTokenizer.load(options.tokenizer).to(options.place)
    size = options.size or tokenizer.sample_size
    tokenizer.check(size)
    readers = {"latents": of_latents(tokenizer), "untrained": of_latents(untrained(tokenizer)),
               "pixels": of_pixels()}  # fmt: skip
    if options.beside is not None:
        for name, trained in ((options.beside, True), (f"{options.beside} untrained", False)):
            readers[name] = of_vision_model(options.beside, options.place, trained)
    transform = Transform(CenterCrop(size), mode=tokenizer.mode)
    found: dict[str, Any] = {"artifact": options.tokenizer, "size": size, "warning": WARNING}
    for name, dataset in sets.items():
        with computing(options.precision, options.place, *tokenizer.networks):
            own = name == "data"
            batches = _batches(
                some_of(dataset, options.count if own else None, transform, options.batch_size),
                name,
                options.factor if own else None,
            )
            vectors, said = _read(readers, track(batches, "batches of pictures", None))
        check_learnable(said, name)
        classes, labels = np.unique(said, return_inverse=True)
        learnt, held = halves(labels, options.held_out, options.probe.seed)
        figures = {who: probe(each[learnt], labels[learnt], each[held], labels[held], options.probe)
                   for who, each in vectors.items()}  # fmt: skip
        most = chance(labels[learnt], labels[held])
        of = f"{name}: {len(learnt)} learnt, {len(held)} held out, {len(classes)} classes"
        Console().print(_table(of, figures, most))
        if left := [n for n in options.probe.few if n not in figures["latents"].few]:
            print(f"left out, for a class has fewer: {left} labels a class")
        told = {who: asdict(each) for who, each in figures.items()}
        found[name] = {"classes": classes.tolist(), "learnt": len(learnt), "held_out": len(held),
                       "chance": most, "figures": told}  # fmt: skip
    print(WARNING)
    write_text(options.out, json.dumps(found, indent=1) + "\n")
    return options.out


def _batches(
    batches: Iterable[Batch], name: str, factor: int | None
) -> Iterator[tuple[Pixels, list[str]]]:
    """Pictures and their classes.

    Raises:
        ValueError: some picture has no class.
    """
    for batch in batches:
        yield batch["image"], classes_of(batch, name, factor)


def _read(
    readers: Mapping[str, Representation], batches: Iterable[tuple[Pixels, list[str]]]
) -> tuple[dict[str, Vectors], list[str]]:
    """Vectors of all pictures by each reader, and their classes."""
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in readers}
    said: list[str] = []
    for images, classes in batches:
        said += classes
        for name, read in readers.items():
            parts[name].append(read(images))
    return {name: torch.cat(some).numpy() for name, some in parts.items()}, said


def _table(title: str, figures: Mapping[str, Probed], most: float) -> Table:
    few = next(iter(figures.values())).few
    out = Table(title=f"{title}, chance {most:.3f}", title_justify="left")
    for column in ("", "linear", "nearest", *(f"{n} labels a class" for n in few), "precision"):
        out.add_column(column, justify="left" if not column else "right")
    for name, found in figures.items():
        told = (f"{mean:.3f} +- {spread:.3f}" for mean, spread in found.few.values())
        out.add_row(name, f"{found.linear:.3f}", f"{found.nearest:.3f}", *told,
                    f"{found.precision:.3f}")  # fmt: skip
    return out
