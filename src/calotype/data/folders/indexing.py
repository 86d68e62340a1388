"""Writing the index of a folder: picture by picture, with no more in memory than one folder."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from calotype.data.cache.provenance import stamp_of
from calotype.data.folders.described import SEPARATOR
from calotype.data.folders.index import FOLDERS, HEADER, PASSED, ROWS, changed
from calotype.data.folders.layouts import Found, Layout, Metadata, Texts
from calotype.data.folders.survey import Survey, ending_of
from calotype.data.identity import bytes_of, digest
from calotype.data.pictures import so_many
from calotype.data.reading.captions import Uncaptioned
from calotype.data.reading.formats import passed_over
from calotype.data.tabular.arrow import Writer

SEEN_EVERY = 1 << 14
"""Pictures of which one is looked at again before an index is believed."""


@dataclass
class Missing:
    """Pictures without a caption."""

    count: int = 0
    first: str = ""


@dataclass
class Indexing:
    """Writes the files of an index.

    Args:
        survey: What is in the folder.
        layout: How captions lie in it.
        uncaptioned: What becomes of pictures without one.
    """

    survey: Survey
    layout: Layout
    uncaptioned: Uncaptioned
    missing: Missing = field(default_factory=Missing)

    def write(self, files: Path) -> None:
        """Do so, into a folder.

        Raises:
            FileNotFoundError: metadata name a picture that is not there, or none.
            ValueError: captions cannot be read, or are missing.
        """
        with (
            Writer(files / ROWS, folder="int32", name="binary", text="binary",
                   captions="binary") as self.rows,
            Writer(files / FOLDERS, path="binary", label="string",
                   changed="int64") as self.folders,
            Writer(files / PASSED, path="binary", reason="string") as self.passed,
        ):  # fmt: skip
            named = digest(self._lines())
            self._refuse_missing()
            for name in self.survey.unread:
                self.passed.add(os.fsencode(name), f"{ending_of(name)} is not read")
            for folder, held in self.survey.folders.items():
                if not held.pictures:
                    self.folders.add(os.fsencode(folder), "", held.changed)
        header = {
            "layout": self.layout.name,
            "identity": f"{self.rows.count} pictures, {named}",
            "told": list(self._told()),
            "seen": [(name, stamp_of(self.survey.place("", name))) for name in self._looked_at()],
        }
        (files / HEADER).write_text(json.dumps(header))

    def _lines(self) -> Iterator[str]:
        """Write the pictures; say each one's name and size."""
        root = os.fsencode(self.survey.root)
        self._seen: list[str] = []
        for number, (folder, found, label) in enumerate(self.layout.pictures(self.survey)):
            held, path = self.survey.folders.get(folder), os.fsencode(folder)
            self.folders.add(path, label, held.changed if held else changed(root, path))
            place = str(self.survey.place(folder))
            for picture in found:
                name = os.path.join(folder, picture.name)
                if self._is_passed(picture, name):
                    continue
                if self.rows.count % SEEN_EVERY == 0:
                    self._seen.append(name)
                self._add(number, picture)
                yield f"{name} {bytes_of(os.path.join(place, picture.name))}"

    def _is_passed(self, picture: Found, name: str) -> bool:
        if picture.captioned:
            return False
        self.missing.count += 1
        self.missing.first = self.missing.first or name
        if self.uncaptioned == "skip":
            self.passed.add(os.fsencode(name), "no caption")
        return self.uncaptioned == "skip"

    def _add(self, folder: int, picture: Found) -> None:
        text = picture.text and os.fsencode(picture.text)
        captions = SEPARATOR.join(picture.captions).encode() if picture.captions else None
        self.rows.add(folder, os.fsencode(picture.name), text, captions)

    def _refuse_missing(self) -> None:
        missing, root = self.missing, self.survey.root
        if missing.count and self.uncaptioned == "refuse":
            raise ValueError(
                f"{root}: {missing.count} of {self.rows.count} pictures have no caption, the first "
                f"{root / missing.first}; --data.uncaptioned skip passes them over, empty reads "
                "them without"
            )

    def _looked_at(self) -> list[str]:
        tables = self.layout.tables if isinstance(self.layout, Metadata) else ()
        return [*map(os.path.abspath, tables), *self._seen]

    def _told(self) -> Iterator[str]:
        first, count = self.survey.root / self.missing.first, self.missing.count
        if count:
            what = "passed over" if self.uncaptioned == "skip" else "read without"
            yield f"{so_many(count)} without a caption {what}, the first {first}"
        unused = self.layout.unused if isinstance(self.layout, Texts) else ()
        if unused:
            yield f"{len(unused)} texts belong to no picture, the first {unused[0]}"
        yield from passed_over(self.survey.unread)
