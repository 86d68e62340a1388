"""A folder of pictures, captioned by a metadata file, by texts beside them, or by sub-folders.

The index is ours and not the `imagefolder` of Hugging Face's `datasets`: that one knows no texts
beside the pictures, guesses at mixed layouts, and copies the index into its cache.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from calotype.data.captions import caption_of
from calotype.data.identity import of_files
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
    Names that begin with a dot are not read; links to folders are followed.
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
            ValueError: the layout is mixed, or the captions cannot be read.
        """
        records = sorted(self._records(), key=lambda record: record.name)
        if not records:
            raise FileNotFoundError(
                f"no images in {self.path}: its metadata name none; expected rows with file_name "
                f"and {' or '.join(CAPTION_COLUMNS)}"
            )
        files = [Path(record.name) for record in records]
        identity = partial(of_files, files, self.path, "pictures")
        return Pictures(records, Reader(self.on_error, f"folder {self.path}"), identity)

    def _records(self) -> Iterator[Record]:
        root = Path(self.path)
        files = sorted(_files(root, frozenset()))
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


def _files(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """List the files at any depth; `above` are the folders that it is in, lest links go round."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    if (real := folder.resolve()) in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(folder / entry.name, above | {real})
            else:
                yield folder / entry.name


def _mixed(root: Path, found: str) -> None:
    raise ValueError(f"mixed layout in {root}: {found}; keep one of them, or point to a sub-folder")


def _beside(root: Path, images: list[Path], captioned: set[Path]) -> Iterator[Record]:
    if bare := [image for image in images if image not in captioned]:
        _mixed(root, f"{len(captioned)} images with a .txt caption, {len(bare)} without: {bare[0]}")
    for image in images:
        yield Record(image, str(image), _text(image.with_suffix(".txt")).strip())


def _described(metadata: Path) -> Iterator[Record]:
    """Read a metadata file; each row is checked now, so that no run fails on one later."""
    for number, row in _rows(metadata):
        where, column = f"{metadata} line {number}", _caption_column(row)
        if "file_name" not in row or column is None:
            raise ValueError(
                f"{where}: needs file_name and {' or '.join(CAPTION_COLUMNS)}, has {', '.join(row)}"
            )
        if not isinstance(row["file_name"], str):
            raise ValueError(f"{where}: file_name is {json.dumps(row['file_name'])}, not a name")
        file = metadata.parent / row["file_name"]
        if not file.is_file():
            raise FileNotFoundError(f"{where}: no file {file}")
        yield Record(file, str(file), caption_of(row[column], where))


def _caption_column(row: dict[str, Any]) -> str | None:
    return next((name for name in CAPTION_COLUMNS if name in row), None)


def _rows(metadata: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = StringIO(_text(metadata), newline="")
    if metadata.suffix == ".csv":
        yield from _csv_rows(lines, metadata)
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _json_row(line, f"{metadata} line {number}")


def _csv_rows(lines: Iterable[str], metadata: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines, strict=True)
    try:
        for row in reader:
            # DictReader keeps values beyond the columns under None, and None where there are none.
            if None in row or None in row.values():
                raise ValueError(
                    f"{metadata} line {reader.line_num}: needs {len(reader.fieldnames or ())} "
                    'values, as the first line has; put one with a comma in "double quotes"'
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(
            f"{metadata} line {reader.line_num + 1}: not CSV ({error}); put a value with a "
            'comma in "double quotes", and write a quote in it twice'
        ) from None


def _json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a JSON object")
    return row


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file} line {line}: not UTF-8; save it in that encoding") from None
