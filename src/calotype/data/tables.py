"""Pictures in tables: parquet, the Hub and webdataset, read by Hugging Face's `datasets`.

Pictures leave `datasets` undecoded, so that broken ones meet the same policy everywhere. Without
streaming, tables are memory-mapped from the cache of `datasets`, which holds a copy of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import chain, islice
from pathlib import Path
from typing import Any, Union

import numpy as np

from calotype.data.captions import caption_of
from calotype.data.origin import Origin, check_footers, parquet_rows, tar_members
from calotype.data.pictures import OnError, Pictures, Reader, Record, Stream
from calotype.data.remote import check
from calotype.lazy import datasets
from calotype.training.network import place

Table = Union["datasets.Dataset", "datasets.IterableDataset"]


@dataclass(frozen=True)
class Parquet:
    """Pictures and captions in parquet files.

    Raises:
        ValueError: `shuffle_buffer` < 1.
    """

    path: str | Path
    """A parquet file, a pattern of files, or a folder of them."""
    image_column: str = "image"
    """Encoded pictures."""
    caption_column: str | None = "caption"
    """Captions, of lists the first entry, of class labels the name; None: there are none."""
    streaming: bool = False
    """Read from the start each epoch, with flat memory and no copy, instead of at random."""
    shuffle_buffer: int = 1000
    """Undecoded pictures held in memory to shuffle a stream; of a local one by each worker."""
    on_error: OnError = "skip"
    """What becomes of a broken picture: the next good one takes its place, or reading stops."""

    def __post_init__(self) -> None:
        _check_buffer(self.shuffle_buffer)

    def build(self) -> Pictures | Stream:
        """Open the files.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file cannot be read or has columns of its own, there are no rows, or a
                column is missing or holds no pictures.
        """
        files = _files(self.path, ".parquet")
        columns = Columns((self.image_column,), self.caption_column)
        origin = Origin(
            f"parquet {self.path}", "files of one kind", tuple(files), parquet_rows, _local(files)
        )
        check_footers(origin, columns.names())
        with origin.reading():
            table = datasets.load_dataset(
                "parquet", data_files=files, split="train", streaming=self.streaming
            )
        return _pictures(table, columns, self, origin)


@dataclass(frozen=True)
class Hub:
    """Pictures and captions in a dataset on the Hugging Face Hub.

    Raises:
        ValueError: `shuffle_buffer` < 1.
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
    """Read from the start each epoch, with flat memory and no copy, instead of at random."""
    shuffle_buffer: int = 1000
    """Undecoded pictures held in memory to shuffle a stream; of a local one by each worker."""
    on_error: OnError = "skip"
    """What becomes of a broken picture: the next good one takes its place, or reading stops."""

    def __post_init__(self) -> None:
        _check_buffer(self.shuffle_buffer)

    def build(self) -> Pictures | Stream:
        """Open the dataset; without streaming, it is downloaded.

        Raises:
            ValueError: it cannot be read, or a column is missing or holds no pictures.
        """
        origin = Origin(
            f"dataset {self.name}",
            "what load_dataset reads, on the Hub or in a folder",
            local=Path(self.name).is_dir(),
        )
        with origin.reading():
            where = place(self.name)
            table = datasets.load_dataset(
                where.root, self.config, split=self.split, streaming=self.streaming,
                data_dir=where.inside or None, revision=where.revision,
            )  # fmt: skip
        return _pictures(table, Columns((self.image_column,), self.caption_column), self, origin)


@dataclass(frozen=True)
class WebDataset:
    """Pictures and captions in tar files of `<key>.jpg`, `<key>.txt`.

    Raises:
        ValueError: `shuffle_buffer` < 1.
    """

    path: str | Path
    """A tar file, a pattern of files, a folder of them, or a URL."""
    image_keys: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """Endings of pictures; of several with one key, the first is taken."""
    caption_key: str | None = "txt"
    """Ending of captions: "txt", or "json" with `json_field`; None: there are none."""
    json_field: str = "caption"
    """Field of the caption where captions are in JSON."""
    streaming: bool = True
    """Read from the start each epoch, with flat memory and no copy, instead of at random."""
    shuffle_buffer: int = 1000
    """Undecoded pictures held in memory to shuffle a stream; of a local one by each worker."""
    on_error: OnError = "skip"
    """What becomes of a broken picture: the next good one takes its place, or reading stops."""

    def __post_init__(self) -> None:
        _check_buffer(self.shuffle_buffer)

    def build(self) -> Pictures | Stream:
        """Open the files.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file cannot be read, or no file in them has one of the keys.
        """
        files = _files(self.path, ".tar")
        expected = "tar files of <key>.jpg, <key>.txt, with texts in UTF-8"
        origin = Origin(
            f"webdataset {self.path}", expected, tuple(files), tar_members, _local(files)
        )
        with origin.reading():
            table = datasets.load_dataset(
                "webdataset", data_files=files, split="train", streaming=self.streaming
            )
            names = _names(table)
        there = tuple(key for key in self.image_keys if key in names) or self.image_keys
        columns = Columns(there, self.caption_key, json_field=self.json_field)
        return _pictures(table, columns, self, origin)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table become a record."""

    images: tuple[str, ...]
    """Of several, the first with a value is taken."""
    caption: str | None
    labels: "datasets.ClassLabel | None" = None
    """Names of the caption column's values, if they are class labels."""
    json_field: str | None = None
    """Field of the caption column's values, if they are JSON objects."""

    def names(self) -> list[str]:
        """List the columns."""
        return [*self.images, *([self.caption] if self.caption else [])]

    def record(self, row: dict[str, Any], name: str) -> Record:
        """Make a record of a row.

        Raises:
            ValueError: its caption is bytes and not UTF-8.
        """
        values = (row[column] for column in self.images)
        image = next((v for v in values if v is not None), {"bytes": b"", "path": None})
        file = image["bytes"] if image["bytes"] is not None else _place(image["path"])
        named = f"{name} ({image['path']})" if image["path"] else name
        return Record(file, named, self._caption(row[self.caption], named) if self.caption else "")

    def _caption(self, value: Any, name: str) -> str:
        if self.labels is not None and value is not None:
            value = self.labels.int2str(value)
        if isinstance(value, dict):
            value = value.get(self.json_field)
        try:
            return caption_of(value)
        except UnicodeDecodeError:
            raise ValueError(f"caption of {name}: not UTF-8; save it in that encoding") from None


@dataclass(frozen=True)
class Rows(Sequence[Record]):
    """A table's records, by their number."""

    table: "datasets.Dataset"
    columns: Columns
    source: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.columns.record(self.table[index], f"{self.source} row {index}")


@dataclass(frozen=True)
class Passes:
    """A streamed table's passes; see `Stream`."""

    table: "datasets.IterableDataset"
    columns: Columns
    origin: Origin
    buffer: int

    def __call__(self, seed: int | None) -> Iterator[Record]:
        """Read one pass, in order or shuffled: whole files first, then within the buffer.

        `IterableDataset.shuffle` would order the same seed differently in a worker process, and
        waits five seconds at the end of each pass over several files.

        Raises:
            ValueError: a file cannot be read.
        """
        rows = _rows(self.table)
        if seed is not None:
            rng, n = np.random.default_rng(seed), self.table.num_shards
            files = (self.table.shard(n, int(index)) for index in rng.permutation(n))
            rows = _shuffled(chain.from_iterable(map(_rows, files)), self.buffer, rng)
        for index, row in enumerate(self._read(rows)):
            yield self.columns.record(row, f"{self.origin.name} sample {index}")

    def _read(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        with self.origin.reading():
            yield from rows


def _rows(table: "datasets.IterableDataset") -> Iterator[dict[str, Any]]:
    """Read all rows in a worker too, where `iter(table)` would give a part of them.

    That batches of one are not divided among workers is what `datasets` does, not what it promises.
    """
    for row in table.iter(batch_size=1):
        yield {column: values[0] for column, values in row.items()}


def _shuffled(
    rows: Iterator[dict[str, Any]], size: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Let each row wait in a buffer until another takes its random place."""
    buffer = list(islice(rows, size))
    for row in rows:
        place = rng.integers(size)
        yield buffer[place]
        buffer[place] = row
    yield from (buffer[place] for place in rng.permutation(len(buffer)))


def _pictures(
    table: Any, columns: Columns, spec: Parquet | Hub | WebDataset, origin: Origin
) -> Pictures | Stream:
    with origin.reading():
        names = _names(table)
    columns = _checked(table, names, columns, origin.name)
    for column in columns.images:
        table = table.cast_column(column, datasets.Image(decode=False))
    table, reader = table.select_columns(columns.names()), Reader(spec.on_error, origin.name)
    if isinstance(table, datasets.IterableDataset):
        passes = Passes(table, columns, origin, spec.shuffle_buffer)
        return Stream(passes, reader, local=origin.local, identity=origin.identity)
    return Pictures(Rows(table, columns, origin.name), reader, origin.identity)


def _checked(table: Table, there: list[str], columns: Columns, source: str) -> Columns:
    """Check that the columns are there and hold pictures; add the names of class labels."""
    if missing := [name for name in columns.names() if name not in there]:
        raise ValueError(f"{source}: no column {', '.join(missing)}; it has {', '.join(there)}")
    features = table.features or {}
    for column in columns.images:
        feature = features.get(column, datasets.Image())
        if not _holds_pictures(feature):
            raise ValueError(f"{source}: column {column} holds {feature}, not encoded pictures")
    labels = features.get(columns.caption or "")
    labels = labels if isinstance(labels, datasets.ClassLabel) else None
    return Columns(columns.images, columns.caption, labels, columns.json_field)


def _holds_pictures(feature: Any) -> bool:
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("binary", "large_binary", "string", "large_string")
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)


def _names(table: Table) -> list[str]:
    # A stream of JSON lines, say, tells its columns only by its rows.
    names = table.column_names or list(next(iter(table), {}))
    return [name for name in names if not name.startswith("__")]  # webdataset adds two such


def _place(path: str | None) -> Path | str | bytes:
    """Tell a local path from a URL; a row without a picture has neither and reads as no bytes."""
    if path is None:
        return b""
    return path if "://" in path else Path(path)


def _files(path: str | Path, suffix: str) -> list[str]:
    if "://" in str(path):
        check(str(path))
        return [str(path)]
    pattern = Path(path) / f"**/*{suffix}" if Path(path).is_dir() else path
    files = sorted(glob(str(pattern), recursive=True))
    if not files:
        raise FileNotFoundError(f"no files {pattern}: expected a {suffix} file, pattern or folder")
    return files


def _local(files: list[str]) -> bool:
    return not any("://" in file for file in files)


def _check_buffer(size: int) -> None:
    if size < 1:
        raise ValueError(f"data.shuffle_buffer is {size}: it must be at least 1")
