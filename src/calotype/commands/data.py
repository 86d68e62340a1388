"""What would be trained on: a table, and a page of pictures, before anything is trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calotype.commands.findings import Findings, Passed, named
from calotype.commands.own_pictures import others
from calotype.data import (
    Balanced,
    Filtered,
    Folder,
    Mixture,
    Parquet,
    Pictures,
    Record,
    Source,
    Stream,
    WebDataset,
)
from calotype.data.archives.parts import SUFFIXES as TARS
from calotype.data.filters import FilteredPictures
from calotype.data.folders.survey import ending_of, kind_of
from calotype.data.mixed_streams import MixedStream
from calotype.data.mixtures import BalancedPictures, MixedPictures
from calotype.data.reading.formats import UNREAD
from calotype.data.reading.inspection import Inspected, inspected, small_copy, spread_out
from calotype.pages.data import Bars, Looked, Shown, write_data

HEADERS = 20_000
"""Pictures of which the headers are read where nothing else is said."""
PAIRS = 24
"""Pairs of pictures that look alike on the page."""


@dataclass(frozen=True)
class Data:
    """What would be trained on: sizes, captions, duplicates, what is passed over and why."""

    path: tyro.conf.Positional[Path | None] = None
    """A folder of pictures or its metadata file, or a parquet or tar file or a pattern of them;
    none: as `data` says."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    size: int = 256
    """Pixels a side of the images that would be trained on."""
    count: int = 2000
    """Pictures that are decoded, from all over the data; of a stream the first, held in memory. Of
    ten times as many the headers are read."""
    all: bool = False
    """Decode every picture. Not of a stream, which may have no end."""
    shown: int = 120
    """Pictures on the page, from all over the data, besides those that look alike."""
    out: Path | None = None
    """The page to write; None: data-NAME.html, after what is looked at."""

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("count", 1), ("shown", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"--{name} is {value}: it must be at least {least}")
        if self.path is not None and self.data != Folder(Path("images")) and not self._is_folder:
            raise ValueError(f"{self.path} and data: say by one of them what to look at")

    @property
    def _is_folder(self) -> bool:
        """Whether `path` is a folder, of which `data` may say how it is read."""
        named = isinstance(self.data, Folder) and self.data.path == Path("images")
        return named and self.path is not None and self.path.expanduser().is_dir()

    @property
    def source(self) -> Source:
        """What is looked at."""
        if self.path is None:
            return self.data
        name = self.path.name.lower()
        if name.endswith(TARS):
            return WebDataset(self.path)
        # A table of that name names the pictures of its folder.
        rows = name.endswith(".parquet") and kind_of(name) != "table"
        if rows:
            return Parquet(self.path)
        return replace(self.data, path=self.path) if self._is_folder else Folder(self.path)

    @property
    def file(self) -> Path:
        """The page.

        Raises:
            ValueError: it is a folder, or none.
        """
        file = self.out or Path(f"data-{_name(self.source)}.html")
        if file.is_dir() or file.suffix.lower() != ".html":
            raise ValueError(f"--out is {file}: name a page, such as data.html")
        return file


def show_data(options: Data) -> Path:
    """Look, print a table and write the page; returns the page.

    Raises:
        ValueError, FileNotFoundError: there are no pictures, or none can be read.
    """
    file = options.file
    dataset = options.source.build()
    listed, records = _records(dataset, options.count)
    headers = range(len(records)) if options.all else spread_out(
        range(len(records)), max(HEADERS, 10 * options.count)
    )  # fmt: skip
    decoded = headers if options.all else spread_out(headers, options.count)
    if options.all and listed is None:
        raise ValueError("--all: a stream may have no end; say by --count how many are decoded")
    seen = list(inspected(records, headers, decoded))
    reader: Any = getattr(dataset, "reader", None)
    found = Findings(
        reader.source if reader else f"{type(options.source).__name__}", listed, seen,
        len(decoded), list(_passed(options.source, dataset)), options.size,
        list(_notes(dataset)),
    )  # fmt: skip
    if not found.whole:
        why = f"{seen[0].name}: {seen[0].broken}"
        raise ValueError(f"{found.source}: none of {len(seen)} pictures can be read; {why}")
    _print(found)
    _write(file, found, records, options)
    return file


def _records(dataset: Any, count: int) -> tuple[int | None, Sequence[Record]]:
    """How many there are, and what can be asked for each; of a stream the first."""
    if isinstance(dataset, Stream):
        return None, dataset.some(count)
    if isinstance(dataset, Pictures):
        return len(dataset), dataset.records
    return len(dataset), Drawn(dataset)


@dataclass(frozen=True)
class Drawn(Sequence[Record]):
    """Drawn pictures, as if they had been read."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        example = self.dataset[index]
        return Record(example["image"], f"picture {index}", example["caption"])


def _sources(source: Source) -> Iterator[Source]:
    """A source, and what it is made of."""
    yield source
    inside = source.sources.values() if isinstance(source, Mixture) else (
        [source.source] if isinstance(source, Balanced | Filtered) else []
    )  # fmt: skip
    for each in inside:
        yield from _sources(each)


def _name(source: Source) -> str:
    paths = [getattr(each, "path", None) or getattr(each, "name", "") for each in _sources(source)]
    names = [Path(path).resolve().name for path in paths if path]
    name = "-".join(names) or type(source).__name__.lower()
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


NO_CAPTION = "give them captions, or read them without by --data.uncaptioned empty"
NO_PAIR = (
    "give each a picture and a caption, or name the endings of these by --data.image-keys "
    "and --data.caption-key"
)
OTHER = "convert those that are pictures to JPEG or PNG"
"""What is to be done about what is passed over."""


def _passed(source: Source, dataset: Any) -> Iterator[Passed]:
    """What sources pass over, why, and what would mend it."""
    skipped: dict[str, str] = {}
    for each in _datasets(dataset):
        yield from _passed_by_index(each)
        skipped.update(each.reader.skipped)
    # What a tar has that is no sample goes by its reason, a broken picture by its name.
    if bare := [name for name, why in skipped.items() if name == why]:
        yield Passed(f"{len(bare)} samples ({named(bare)})", "samples", NO_PAIR)
    for each in _sources(source):
        kinds = others(Path(each.path).expanduser()) if isinstance(each, Folder) else {}
        for ending, count in kinds.items():
            yield Passed(f"{count} files {ending}, no pictures that can be read here",
                         "files of other kinds", OTHER)  # fmt: skip


def _passed_by_index(dataset: Pictures | Stream) -> Iterator[Passed]:
    told = getattr(getattr(dataset, "records", None), "passed_over", None)
    reasons: dict[str, list[str]] = {}
    for name, why in told() if told else ():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        ending = ending_of(names[0])
        what, mend = (f"files {ending}", UNREAD[ending]) if ending in UNREAD else (
            "pictures without a caption", NO_CAPTION)  # fmt: skip
        yield Passed(f"{len(names)}, {why} ({named(names)})", what, mend)


def _datasets(dataset: Any) -> Iterator[Pictures | Stream]:
    """Those that list pictures, or read them, themselves."""
    match dataset:
        case FilteredPictures() | BalancedPictures():
            yield from _datasets(dataset.source)
        case MixedPictures() | MixedStream():
            for each in dataset.datasets:
                yield from _datasets(each)
        case Pictures() | Stream():
            yield dataset


def _notes(dataset: Any) -> Iterator[str]:
    """What sources made of sources say of themselves."""
    match dataset:
        case FilteredPictures():
            yield from dataset.lines()
        case MixedPictures() | MixedStream():
            for each in dataset.datasets:
                count = f"{len(each)} pictures" if isinstance(each, Pictures) else "a stream"
                yield f"{each.reader.source}: {count}"
                yield from _notes(each)
        case Stream():
            yield from dataset.reader.removals.told(ending=True)
        case BalancedPictures():
            yield f"{len(dataset.classes)} classes are drawn equally often"
            yield from _notes(dataset.source)


def _print(found: Findings) -> None:
    console, table = Console(), Table.grid(padding=(0, 2))
    for what, line in found.rows():
        table.add_row(Text(what, "bold"), Text(line, overflow="fold"))
    console.print(table)
    for warning in found.warnings():
        console.print(Text(f"! {warning}"))


def _write(file: Path, found: Findings, records: Sequence[Record], options: Data) -> None:
    decoded = [each.place for each in found.seen if each.look is not None]
    at = {each.place: each for each in found.seen}

    def shown(each: Inspected, *, with_name: bool = False) -> Shown:
        own = [each.name.removeprefix(found.source).strip()] if with_name else []
        text = " | ".join(filter(None, [*own, *each.texts]))
        return Shown(each.name, text, small_copy(records[each.place]))

    pairs = [(shown(a, with_name=True), shown(b, with_name=True)) for a, b in found.alike[:PAIRS]]
    samples = [shown(at[place]) for place in spread_out(decoded, options.shown)]
    sizes = [header.size for _, header in found.whole]
    bars = [
        Bars.of("Shorter side, pixels", [min(size) for size in sizes]),
        Bars.of("Width / height", [size[0] / size[1] for size in sizes]),
        Bars.of("Part that a square crop loses, %", [100 * lost for lost in found.lost]),
    ]
    bars += [Bars.of("Words of a caption", found.lengths)] if found.lengths else []
    bars = [each for each in bars if len(each.counts) > 1]  # one bar says what the table does
    rows, warnings, faults = list(found.rows()), list(found.warnings()), list(found.faults())
    write_data(file, Looked(found.source, rows, warnings, faults, bars, pairs, samples))
