"""How a row of a table becomes a record."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.data.captions import caption_of
from calotype.data.pictures import Record
from calotype.lazy import datasets


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
            folder: Where pictures that the row only names lie.

        Raises:
            ValueError: its caption is no text, or is broken.
        """
        value = row[self.image]
        found = value if isinstance(value, dict) else _as_dict(value)
        data, path = found.get("bytes"), found.get("path")
        file = data if data is not None else _place(path, folder)
        named = f"{name} ({path})" if path else name
        return Record(file, named, self._caption(row[self.caption], named) if self.caption else "")

    def _caption(self, value: Any, name: str) -> str:
        if self.labels is not None and value is not None:
            value = self.labels.int2str(value)
        return caption_of(value, f"caption of {name}")


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
        raise ValueError(f"{where}: no column {', '.join(missing)}; it has {', '.join(there)}")


def _holds_pictures(feature: Any) -> bool:
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("null", "binary", "large_binary", "string", "large_string")
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)


def _as_dict(value: Any) -> dict[str, Any]:
    return {"path" if isinstance(value, str) else "bytes": value}


def _place(path: str | None, folder: Path | None) -> Path | str | bytes:
    """Tell a local path from a URL; a row without a picture has neither and reads as no bytes."""
    if path is None:
        return b""
    if "://" in path:
        return path
    beside = folder / path if folder else None  # a path of its own stays as it is
    return beside if beside and beside.exists() else Path(path)
