"""Pictures in tables: parquet and the Hub, whole or streamed.

Pictures are left undecoded, so that broken ones meet the same policy everywhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Union

from calotype.data.pictures import Pictures
from calotype.data.reading.paths import files_of
from calotype.data.reading.records import OnError, Reader, Record
from calotype.data.streams import Parts, Stream, picked
from calotype.data.tabular.columns import Columns, check_there, checked
from calotype.data.tabular.origin import Origin, identity_of, is_local
from calotype.data.tabular.parquets import RowGroups, Rows, copied, footers
from calotype.lazy import datasets
from calotype.training.network import Place, place

Table = Union["datasets.Dataset", "datasets.IterableDataset"]


@dataclass(frozen=True)
class Parquet:
    """Pictures and captions in parquet files.

    Raises:
        ValueError: `shuffle_buffer` or `lanes` < 1.
    """

    path: str | Path
    """A parquet file, a pattern of files, a folder of them, or a URL."""
    image_column: str = "image"
    """Encoded pictures, or where they lie: a URL, or a path from the folder of the file."""
    caption_column: str | None = "caption"
    """Captions, of lists the first entry, of class labels the name; None: there are none."""
    streaming: bool = False
    """Read row groups in turn, with flat memory and no copy, instead of at random from a copy."""
    shuffle_buffer: int = 1000
    """Undecoded pictures held in memory to shuffle a stream, by all ranks and workers together."""
    on_error: OnError = "skip"
    """What becomes of a broken picture: the next good one takes its place, or reading stops."""
    lanes: int = 96
    """Places of a stream that are read at once, of which each rank and worker has its own: a
    multiple of 12 for as many workers, times the ranks; of small files fewer."""

    def __post_init__(self) -> None:
        check_stream(self.shuffle_buffer, self.lanes)

    def build(self) -> Pictures | Stream:
        """Open the files.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file cannot be read, there are no rows, or a column is missing, is of
                another kind than in the file before, or holds no pictures.
        """
        name, files = f"parquet {self.path}", files_of(self.path, ".parquet")
        columns = Columns(self.image_column, self.caption_column)
        found, reader = footers(files, columns, name), Reader(self.on_error, name)
        if self.streaming:
            return Stream(
                RowGroups(found, columns), reader, lanes=self.lanes, buffer=self.shuffle_buffer,
                local=is_local(files), identity=identity_of(files),
            )  # fmt: skip
        table = copied(found, columns, name)
        columns = checked(columns, table.features, name)
        ends = list(accumulate(sum(each.rows) for each in found))
        return Pictures(Rows(table, columns, found, ends), reader, identity_of(files))


@dataclass(frozen=True)
class Hub:
    """Pictures and captions in a dataset on the Hugging Face Hub.

    Raises:
        ValueError: `shuffle_buffer` or `lanes` < 1.
    """

    name: str
    """Name on the Hub, user/name or user/name@revision/folder, or a local folder that `datasets`
    reads."""
    split: str = "train"
    config: str | None = None
    """Configuration of the dataset; None: its default."""
    image_column: str = "image"
    """Encoded pictures."""
    caption_column: str | None = "caption"
    """Captions, of lists the first entry, of class labels the name; None: there are none."""
    streaming: bool = False
    """Read files in turn, with flat memory and no copy, instead of at random from a copy."""
    shuffle_buffer: int = 1000
    """Undecoded pictures held in memory to shuffle a stream, by all ranks and workers together."""
    on_error: OnError = "skip"
    """What becomes of a broken picture: the next good one takes its place, or reading stops."""
    lanes: int = 96
    """Files of a stream that are read at once, of which each rank and worker has its own."""

    def __post_init__(self) -> None:
        check_stream(self.shuffle_buffer, self.lanes)

    def build(self) -> Pictures | Stream:
        """Open the dataset; without streaming, it is downloaded.

        Raises:
            ValueError: it cannot be read, or a column is missing or holds no pictures.
        """
        name = f"dataset {self.name}"
        origin = Origin(name, "what load_dataset reads, on the Hub or in a folder")
        with origin.reading():
            where = place(self.name)
            builder = datasets.load_dataset_builder(
                where.root, self.config, data_dir=where.inside or None, revision=where.revision
            )
            table = _read(builder, self.split, self.streaming)
            there = table.column_names or list(next(iter(table), {}))  # JSON tells by its rows
        known = partial(_revision, builder, where, self.split)
        columns = Columns(self.image_column, self.caption_column)
        check_there(columns.names(), there, name)
        if table.features:
            columns = checked(columns, table.features, name)
        table = table.cast_column(columns.image, datasets.Image(decode=False))
        table, reader = table.select_columns(columns.names()), Reader(self.on_error, name)
        if isinstance(table, datasets.IterableDataset):
            source = Shards(table, columns, origin)
            return Stream(source, reader, lanes=self.lanes, buffer=self.shuffle_buffer,
                          local=Path(self.name).is_dir(), identity=known)  # fmt: skip
        return Pictures(RowsOfTable(table, columns, name), reader, known)


def _read(builder: "datasets.DatasetBuilder", split: str, streaming: bool) -> Table:
    if streaming:
        return builder.as_streaming_dataset(split)  # pyright: ignore[reportReturnType] (of one split)
    builder.download_and_prepare()
    return builder.as_dataset(split)  # pyright: ignore[reportReturnType] (of one split)


def _revision(builder: "datasets.DatasetBuilder", where: Place, split: str) -> str:
    """What tells a dataset from others: its files here, or its commit on the Hub."""
    asked = f"{builder.config.name} {split}"
    files = list(chain.from_iterable((builder.config.data_files or {}).values()))
    if where.is_here and (known := identity_of(list(map(str, files)))):
        return f"{asked} of {known()}"
    inside = where.inside and f"/{where.inside}"
    return f"{asked} of {where.root}{inside} at {builder.hash}"


class Shards(Parts):
    """Files that `datasets` streams, each read from its start."""

    counted = False

    def __init__(self, table: "datasets.IterableDataset", columns: Columns, origin: Origin) -> None:
        super().__init__([None] * table.num_shards, table.num_shards)
        self.table, self.columns, self.origin = table, columns, origin

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        records = self._records(part)
        yield from picked(records, places, lambda length: self.learn(part, length))

    def _records(self, part: int) -> Iterator[Record]:
        shards, name = len(self), self.origin.name
        named = f"{name} file {part} sample" if shards > 1 else f"{name} sample"
        for index, row in enumerate(self._rows(self.table.shard(shards, part))):
            yield self.columns.record(row, f"{named} {index}")

    def _rows(self, table: "datasets.IterableDataset") -> Iterator[dict[str, Any]]:
        """Read all rows in a worker too, where `iter(table)` would give a part of them.

        That batches of one are not divided among workers is what `datasets` does, not what it
        promises.
        """
        with self.origin.reading():
            for row in table.iter(batch_size=1):
                yield {column: values[0] for column, values in row.items()}


@dataclass(frozen=True)
class RowsOfTable(Sequence[Record]):
    """A table's records, by their number."""

    table: "datasets.Dataset"
    columns: Columns
    source: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.columns.record(self.table[index], self._named(index))

    def captions(self) -> Iterator[str]:
        """The first caption of each, in order; no picture is read for them."""
        return self.columns.captions(self.table, self._named)

    def _named(self, index: int) -> str:
        return f"{self.source} row {index}"


def check_stream(buffer: int, lanes: int) -> None:
    """Check what a source says of streaming.

    Raises:
        ValueError: one of them is < 1.
    """
    for name, value in (("shuffle_buffer", buffer), ("lanes", lanes)):
        if value < 1:
            raise ValueError(f"data.{name} is {value}: it must be at least 1")
