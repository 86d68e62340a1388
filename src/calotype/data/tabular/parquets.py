"""Parquet files: what all of them hold together, and their row groups as parts of a stream."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from calotype.data.reading.records import Record
from calotype.data.reading.steady import Steady
from calotype.data.streams import Parts
from calotype.data.tabular.columns import Columns, check_there, checked
from calotype.data.tabular.origin import Origin, broken, reason_of
from calotype.lazy import datasets, pyarrow

ROWS = 64
"""Rows that are held in memory at once for each place that is read."""
BUFFER = 2**20
"""Bytes that are read at once."""
FETCHED = 32
"""Files whose ends are fetched at once."""


@dataclass(frozen=True)
class Footer:
    """What the end of a file says of it."""

    file: str
    rows: tuple[int, ...]
    """Of each row group."""
    schema: "pyarrow.Schema"
    end: "pyarrow.parquet.FileMetaData"
    """All of it."""

    @property
    def features(self) -> "datasets.Features":
        """The columns as `datasets` knows them, with the names of class labels."""
        return datasets.Features.from_arrow_schema(self.schema)

    def columns(self, columns: Columns) -> Columns:
        """Those of them that are read, with names of class labels of its own.

        Raises:
            ValueError: they hold something else.
        """
        return checked(columns, self.features, self.file)

    @property
    def folder(self) -> Path | None:
        """Where pictures lie that are only named."""
        return None if "://" in self.file else Path(self.file).parent

    def named(self, row: int) -> str:
        """What errors call a row."""
        return f"{self.file} row {row}"

    def record(self, columns: Columns, values: dict[str, Any], row: int) -> Record:
        """Make a record of a row.

        Args:
            columns: Of this file.
            values: Of the row.
            row: Its number in the file.

        Raises:
            ValueError: as of `Columns.record`.
        """
        return columns.record(values, self.named(row), self.folder)


def footers(files: Sequence[str], columns: Columns, name: str) -> list[Footer]:
    """Read the ends of files, and check that they can be read as one.

    Args:
        files: Paths or URLs.
        columns: What will be read of them.
        name: What errors call all of them.

    Raises:
        ValueError: a file is broken, lacks a column or has one of another kind than the first that
            says of which, or there are no rows.
    """
    with ThreadPoolExecutor(FETCHED) as pool:
        found = list(pool.map(_footer, files))
    first = found[0]
    check_there(columns.names(), first.schema.names, name)
    for each in found:
        if not set(columns.names()) <= set(each.schema.names):
            raise ValueError(
                f"{each.file}: has the columns {', '.join(each.schema.names)}, but {first.file} "
                f"has {', '.join(first.schema.names)}; read files of one kind"
            )
        checked(columns, each.features, each.file if len(found) > 1 else name)
    if not any(chain.from_iterable(each.rows for each in found)):
        raise ValueError(f"{name}: no rows in it; expected one for each picture")
    if columns.caption:
        _check_captions(found, columns.caption)
    return found


def _footer(file: str) -> Footer:
    with _reading(file), _opened(file) as data:
        end = pyarrow.parquet.read_metadata(data)
    rows = tuple(end.row_group(i).num_rows for i in range(end.num_row_groups))
    return Footer(file, rows, end.schema.to_arrow_schema(), end)


@contextmanager
def _reading(file: str) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        # Arrow's own are OSErrors without a number; those with one are the disk's or the network's.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise broken(file, reason_of(error)) from error


@contextmanager
def _opened(file: str) -> Iterator[str | Steady]:
    if "://" not in file:
        yield file
        return
    with Steady(file) as remote:
        yield remote


def _check_captions(found: Sequence[Footer], column: str) -> None:
    """See that captions of all files are of one type, or of none where all are missing.

    Raises:
        ValueError: they are not.
    """
    known: Footer | None = None
    for each in found:
        kind = each.schema.field(column).type
        if pyarrow.types.is_null(kind):
            continue
        known = known or each
        theirs, was = (
            f.features[column] if isinstance(f.features[column], datasets.ClassLabel) else None
            for f in (each, known)
        )
        if theirs != was or not _alike(known.schema.field(column).type, kind):
            raise ValueError(
                f"{each.file}: column {column} holds {theirs or kind}, but that of {known.file} "
                f"{was or known.schema.field(column).type}; read files of one kind"
            )


def _alike(one: "pyarrow.DataType", other: "pyarrow.DataType") -> bool:
    texts = [pyarrow.string(), pyarrow.large_string()]
    if one in texts and other in texts:
        return True
    try:
        pyarrow.unify_schemas(
            [pyarrow.schema([("x", one)]), pyarrow.schema([("x", other)])],
            promote_options="permissive",
        )
    except pyarrow.ArrowException:
        return False
    return True


def copied(found: Sequence[Footer], columns: Columns, name: str) -> "datasets.Dataset":
    """All rows, memory-mapped from the cache of `datasets`, which holds a copy: of neighbours with
    one type each has its own, and they meet in those of all.

    Args:
        found: The files.
        columns: What is copied of them.
        name: What errors call all of them.

    Raises:
        ValueError: a file cannot be read.
    """
    names = columns.names()
    found = [each for each in found if any(each.rows)]  # `datasets` fails on one without
    kinds = groupby(found, lambda each: [each.features[name] for name in names])
    tables = [_loaded([each.file for each in some], names, name) for _, some in kinds]
    tables = [table.cast_column(columns.image, datasets.Image(decode=False)) for table in tables]
    if len(tables) == 1:
        return tables[0]
    if columns.caption:
        feature = _common(found, columns.caption)
        tables = [table.cast_column(columns.caption, feature) for table in tables]
    return datasets.concatenate_datasets(tables)


def _loaded(files: list[str], columns: list[str], name: str) -> "datasets.Dataset":
    patterns = [file if "://" in file else escape(file) for file in files]
    try:
        with Origin(name, "files of one kind").reading():
            return datasets.load_dataset(
                "parquet", data_files=patterns, split="train", columns=columns
            )
    except ValueError:
        for file in filter(lambda each: "://" not in each, files):  # `datasets` names none
            with _reading(file):
                for _ in pyarrow.parquet.ParquetFile(file).iter_batches(columns=columns):
                    pass
        raise


def _common(found: Sequence[Footer], column: str) -> Any:
    """Type of captions that holds those of all files."""
    features = [each.features[column] for each in found]
    types = [each.schema.field(column).type for each in found]
    if len({str(feature) for feature in features}) == 1:
        return features[0]
    labels = [feature for feature in features if isinstance(feature, datasets.ClassLabel)]
    if labels:
        return labels[0]
    fields = [pyarrow.schema([("x", kind)]) for kind in types if not pyarrow.types.is_null(kind)]
    schema = pyarrow.unify_schemas(fields, promote_options="permissive")
    return datasets.Features.from_arrow_schema(schema)["x"]


class RowGroups(Parts):
    """Row groups of parquet files, each read from its start, a few rows at once."""

    def __init__(self, found: Sequence[Footer], columns: Columns) -> None:
        self.files = [(each, each.columns(columns)) for each in found]
        self.groups = [(file, group, sum(each.rows[:group])) for file, each in enumerate(found)
                       for group in range(len(each.rows))]  # fmt: skip
        counts = list(chain.from_iterable(each.rows for each in found))
        # Where one lane ends and the next begins lies a row group that both read.
        super().__init__(counts, 1 + len(counts) // 10)

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        file, group, first = self.groups[part]
        footer, columns = self.files[file]
        places = iter(places)
        if (place := next(places, None)) is None:
            return
        passed = 0
        for batch in self._batches(footer, group, columns.names()):
            while place is not None and place < passed + len(batch):
                row = batch.slice(place - passed, 1).to_pylist()[0]
                yield footer.record(columns, row, first + place)
                place = next(places, None)
            if place is None:
                return
            passed += len(batch)

    def _batches(
        self, footer: Footer, group: int, names: list[str]
    ) -> Iterator["pyarrow.RecordBatch"]:
        with _reading(footer.file), _opened(footer.file) as data:
            table = pyarrow.parquet.ParquetFile(
                data, metadata=footer.end, buffer_size=BUFFER, pre_buffer=False
            )
            yield from table.iter_batches(
                ROWS, row_groups=[group], columns=names, use_threads=False
            )


@dataclass(frozen=True)
class Rows(Sequence[Record]):
    """Rows of a copied table, by their number, which bear the names of their files."""

    table: "datasets.Dataset"
    columns: Columns
    files: Sequence[Footer]
    ends: Sequence[int]
    """How many rows there are up to the end of each."""

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        footer, row = self._place(index)
        return footer.record(self.columns, self.table[index], row)

    def captions(self) -> Iterator[str]:
        """The first caption of each, in order; no picture is read for them."""

        def named(index: int) -> str:
            footer, row = self._place(index)
            return footer.named(row)

        return self.columns.captions(self.table, named)

    def _place(self, index: int) -> tuple[Footer, int]:
        """The file of a row, and its number in that."""
        file = bisect_right(self.ends, index)
        return self.files[file], index - (self.ends[file - 1] if file else 0)

    def paths(self) -> list[str]:
        """Files that they lie in."""
        return [footer.file for footer in self.files]
