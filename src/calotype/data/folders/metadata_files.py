"""Metadata files: a row for each picture, with its file's name and its caption."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from calotype.data.reading.captions import captions_of, lines_of
from calotype.lazy import pyarrow

CAPTION_COLUMNS = ("caption", "text")
EXPECTED = f"file_name and {' or '.join(CAPTION_COLUMNS)}"


class Described(NamedTuple):
    """A row."""

    line: int
    """Its line; in parquet its row. Both are counted from 1."""
    file: str
    """The picture's path, relative to where the metadata file is looked up from."""
    captions: tuple[str, ...]


def described(table: Path) -> Iterator[Described]:
    """Read a metadata file by its ending: JSON lines, CSV, TSV or parquet. Each row is checked now,
    so that no run fails on one later.

    Raises:
        ValueError: a row cannot be read, or is without a name and a caption's column.
    """
    for line, row in _rows(table):
        where, column = at(table, line), next((c for c in CAPTION_COLUMNS if c in row), None)
        if "file_name" not in row or column is None:
            raise ValueError(f"{where}: needs {EXPECTED}, has {', '.join(row)}")
        name = row["file_name"]
        if not _is_name(name):
            said = json.dumps(name, default=str)
            raise ValueError(f"{where}: file_name is {said}, not a name")
        beside = os.path.join(table.parent, os.path.expanduser(name))
        yield Described(line, os.path.normpath(beside), captions_of(row[column], where))


def at(table: Path, line: int) -> str:
    """What errors call a row."""
    kind = "row" if table.suffix.lower() == ".parquet" else "line"
    return f"{table} {kind} {line}"


def _is_name(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half a character
        return False


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    ending = table.suffix.lower()
    if ending == ".parquet":
        yield from _parquet_rows(table)
    elif ending in (".csv", ".tsv"):
        yield from _csv_rows(lines_of(table), table, "\t" if ending == ".tsv" else ",")
    else:
        for number, line in enumerate(lines_of(table), start=1):
            if line.strip():
                yield number, _json_row(line, f"{table} line {number}")


def _csv_rows(
    lines: Iterable[str], table: Path, delimiter: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines, strict=True, delimiter=delimiter)
    between = "tab" if delimiter == "\t" else "comma"
    try:
        for row in reader:
            # DictReader keeps values beyond the columns under None, and None where there are none.
            if None in row or None in row.values():
                raise ValueError(
                    f"{table} line {reader.line_num}: needs {len(reader.fieldnames or ())} "
                    f'values, as the first line has; put one with a {between} in "double quotes"'
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(
            f"{table} line {reader.line_num + 1}: not {table.suffix[1:].upper()} ({error}); put a "
            f'value with a {between} in "double quotes", and write a quote in it twice'
        ) from None


def _json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a JSON object")
    return row


def _parquet_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        opened = pyarrow.parquet.ParquetFile(table)
        there = opened.schema_arrow.names
        wanted = [name for name in ("file_name", *CAPTION_COLUMNS) if name in there] or there
        number = 0
        for batch in opened.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{table}: broken parquet ({reason}); write it again") from None
