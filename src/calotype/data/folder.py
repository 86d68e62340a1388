"""A folder of pictures, captioned by a metadata file, by texts beside them, or by sub-folders.

The index is ours and not the `imagefolder` of Hugging Face's `datasets`: that one knows no texts
beside the pictures, guesses at mixed layouts, and copies the index into its cache.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.data.captions import caption_of
from calotype.data.images import SUFFIXES
from calotype.data.pictures import OnError, Pictures, Reader, Record

METADATA = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("caption", "text")


@dataclass(frozen=True)
class Folder:
    """Pictures in a folder, at any depth.

    Captions come from the first of these that there is: `metadata.jsonl` or `metadata.csv` (columns
    `file_name`, relative to its own folder, and `caption` or `text`); a `.txt` file beside each
    picture; the name of the sub-folder a picture is in. Pictures right in the folder have none.
    Names that begin with a dot are not read.
    """

    path: str | Path
    """The folder."""
    caption_template: str = "{name}"
    """Caption of a picture in sub-folder {name}: "a photo of a {name}"."""
    on_error: OnError = "skip"
    """What becomes of a broken picture: the next good one takes its place, or reading stops."""

    def build(self) -> Pictures:
        """Index the folder; nothing is decoded yet.

        Raises:
            FileNotFoundError: there is no such folder, no picture in it, or not each that the
                metadata name.
            ValueError: the layout is mixed, or the metadata cannot be read.
        """
        records = sorted(self._records(), key=lambda record: record.name)
        return Pictures(records, Reader(self.on_error, f"folder {self.path}"))

    def _records(self) -> Iterator[Record]:
        root = Path(self.path)
        files = sorted(_files(root))
        metadata = [file for file in files if file.name in METADATA]
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        texts = {file for file in files if file.suffix == ".txt"}
        captioned = {image for image in images if image.with_suffix(".txt") in texts}
        if metadata and captioned:
            _mixed(root, f"{metadata[0].name} and {len(captioned)} .txt captions")
        if metadata:
            return (record for file in metadata for record in _described(file))
        if not images:
            raise FileNotFoundError(
                f"no images in {root}: expected {root}/<class>/<image>, images with .txt captions "
                f"beside them, or a {METADATA[0]} ({', '.join(sorted(SUFFIXES))})"
            )
        if captioned:
            return _beside(root, images, captioned)
        return self._in_sub_folders(root, images)

    def _in_sub_folders(self, root: Path, images: list[Path]) -> Iterator[Record]:
        flat = [image for image in images if image.parent == root]
        if flat and len(flat) < len(images):
            nested = len(images) - len(flat)
            _mixed(root, f"{len(flat)} images right in it and {nested} in sub-folders")
        template = "" if flat else self.caption_template
        return (Record(i, str(i), template.replace("{name}", i.parent.name)) for i in images)


def _files(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    for file in root.rglob("*"):
        if not any(part.startswith(".") for part in file.relative_to(root).parts):
            yield file


def _mixed(root: Path, found: str) -> None:
    raise ValueError(f"mixed layout in {root}: {found}; keep one of them, or point to a sub-folder")


def _beside(root: Path, images: list[Path], captioned: set[Path]) -> Iterator[Record]:
    if bare := [image for image in images if image not in captioned]:
        _mixed(root, f"{len(captioned)} images with a .txt caption, {len(bare)} without: {bare[0]}")
    for image in images:
        yield Record(image, str(image), image.with_suffix(".txt").read_text("utf-8").strip())


def _described(metadata: Path) -> Iterator[Record]:
    """Read a metadata file; each row is checked now, so that no run fails on one later."""
    for number, row in _rows(metadata):
        where, column = f"{metadata} line {number}", _caption_column(row)
        if "file_name" not in row or column is None:
            raise ValueError(
                f"{where}: needs file_name and {' or '.join(CAPTION_COLUMNS)}, has {', '.join(row)}"
            )
        file = metadata.parent / row["file_name"]
        if not file.is_file():
            raise FileNotFoundError(f"{where}: no file {file}")
        yield Record(file, str(file), caption_of(row[column]))


def _caption_column(row: dict[str, Any]) -> str | None:
    return next((name for name in CAPTION_COLUMNS if name in row), None)


def _rows(metadata: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with metadata.open(encoding="utf-8-sig", newline="") as lines:
        if metadata.suffix == ".csv":
            reader = csv.DictReader(lines)
            yield from ((reader.line_num, row) for row in reader)
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _json_row(line, f"{metadata} line {number}")


def _json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a JSON object")
    return row
