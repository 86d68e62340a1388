"""How a row of a table becomes a record."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from calotype.data.reading.captions import captions_of, first_and_all
from calotype.data.reading.records import Record
from calotype.lazy import datasets

AT_ONCE = 1000
"""Captions of a table that are read at once."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table become a record."""

    image: str
    caption: str | None
    labels: "datasets.ClassLabel | None" = None
    """Names of the caption column's values, if they are class labels."""

    def names(self) -> list[str]:
        """List the columns."""
        return [self.image, *([self.caption] if self.caption else [])]

    def record(self, row: dict[str, Any], name: str, folder: Path | None = None) -> Record:
        """Make a record of a row.

        Args:
            row: Values of the columns.
            name: What errors call it.
            folder: Where pictures that the row only names lie; None: no place is known for them.

        Raises:
            ValueError: its caption is no text, or is broken; or its picture is only named, by a
                path from no known folder.
        """
        value = row[self.image]
        found = value if isinstance(value, dict) else _as_dict(value)
        data, path = found.get("bytes"), found.get("path")
        file = data if data is not None else _place(path, folder, name)
        named = f"{name} ({path})" if path else name
        texts = self.texts(row[self.caption], named) if self.caption else ()
        return Record(file, named, *first_and_all(texts))

    def texts(self, value: Any, name: str) -> tuple[str, ...]:
        """Make captions of a value of the caption column.

        Raises:
            ValueError: it is no text, or is broken.
        """
        if self.labels is not None and value is not None:
            value = self.labels.int2str(value)
        return captions_of(value, f"caption of {name}")

    def captions(self, table: "datasets.Dataset", name: Callable[[int], str]) -> Iterator[str]:
        """Give the first caption of each row, without its picture.

        Args:
            table: The rows.
            name: What errors call one of them.

        Raises:
            ValueError: as `texts` does.
        """
        if self.caption is None:
            yield from repeat("", len(table))
            return
        some = table.select_columns([self.caption]).iter(AT_ONCE)
        values = chain.from_iterable(rows[self.caption] for rows in some)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for row, value in enumerate(values):
            yield first_and_all(self.texts(value, name(row)))[0]


def checked(columns: Columns, features: "datasets.Features", where: str) -> Columns:
    """Check that the columns are there and hold pictures; add the names of class labels.

    Raises:
        ValueError: they are not, or do not.
    """
    check_there(columns.names(), [*features], where)
    feature = features[columns.image]
    if not _holds_pictures(feature):
        raise ValueError(f"{where}: column {columns.image} holds {feature}, not encoded pictures")
    labels = features.get(columns.caption or "")
    labels = labels if isinstance(labels, datasets.ClassLabel) else None
    return Columns(columns.image, columns.caption, labels)


def check_there(columns: Sequence[str], there: Sequence[str], where: str) -> None:
    """Check that there are such columns.

    Raises:
        ValueError: one is not there.
    """
    if missing := [name for name in columns if name not in there]:
        raise ValueError(
            f"{where}: no column {', '.join(missing)}; it has {', '.join(there)}: choose by "
            "--data.image-column and --data.caption-column (None: without captions)"
        )


def _holds_pictures(feature: Any) -> bool:
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("null", "binary", "large_binary", "string", "large_string")
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)


def _as_dict(value: Any) -> dict[str, Any]:
    return {"path" if isinstance(value, str) else "bytes": value}


def _place(path: str | None, folder: Path | None, name: str) -> Path | str | bytes:
    """Tell a local path from a URL; a row without a picture has neither and reads as no bytes.

    Raises:
        ValueError: it is a path from no known folder.
    """
    if path is None:
        return b""
    if "://" in path:
        return path
    if folder is None and not os.path.isabs(path):
        raise ValueError(
            f"{name}: its picture is {path}, a path from a folder that is not known; write whole "
            "paths, or URLs, or the pictures themselves"
        )
    return folder / path if folder else Path(path)  # a whole path stays as it is
