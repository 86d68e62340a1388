"""A folder of pictures, captioned by a metadata file, by texts beside them, or by sub-folders.

The index is ours and not the `imagefolder` of Hugging Face's `datasets`: that one knows no texts
beside the pictures, guesses at mixed layouts, and copies the index into its cache.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from warnings import warn

from calotype.data.folders.described import SEPARATOR
from calotype.data.folders.index import Entry, Index
from calotype.data.folders.indexing import Uncaptioned
from calotype.data.folders.keeping import indexed
from calotype.data.folders.layouts import Captions, text_of
from calotype.data.pictures import Pictures
from calotype.data.reading.records import OnError, Reader, Record

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")


@dataclass(frozen=True)
class Folder:
    """Pictures in a folder, at any depth.

    Captions come from what there is of these: a `metadata.jsonl`, `.csv`, `.tsv` or `.parquet`
    (columns `file_name`, relative to its own folder, and `caption` or `text`); a text for each
    picture, `1.txt`, `1.caption` or `1.jpg.txt` for `1.jpg`, beside it or in a folder `captions`
    beside its own; the name of the sub-folder that a picture is in. Else there are none. What is
    not clear is refused. Names that begin with a dot are not read; links to folders are followed.
    """

    path: str | Path
    """The folder, or a metadata file."""
    caption_template: str = "{name}"
    """Caption of a picture in sub-folder {name}: "a photo of a {name}"."""
    on_error: OnError = "skip"
    """What becomes of a broken picture: the next good one takes its place, or reading stops."""
    captions: Captions = "found"
    """Where captions come from: as they are found, if that is clear; metadata files; texts beside
    the pictures; names of sub-folders; or none."""
    uncaptioned: Uncaptioned = "refuse"
    """What becomes of pictures without a caption where others have one: the folder is not read,
    they are skipped, or their caption is empty."""

    def build(self) -> Pictures:
        """Look through the folder; nothing is decoded yet. The index of a large one is kept in the
        user's folder of caches, `~/.cache/calotype` or `$CALOTYPE_CACHE`, and looked through anew
        when something in it was added, renamed or removed.

        Raises:
            FileNotFoundError: there is no such folder, no picture in it, or not each that the
                metadata name.
            ValueError: it is not clear how captions lie in it, or some cannot be read or are
                missing.
        """
        index = indexed(Path(self.path).expanduser(), self.captions, self.uncaptioned)
        source = f"folder {self.path}"
        for line in index.told:
            warn(f"{source}: {line}", stacklevel=2)
        records = FolderRecords(index, self.caption_template)
        return Pictures(records, Reader(self.on_error, source), index.identity)


@dataclass(frozen=True)
class FolderRecords(Sequence[Record]):
    """The records of a folder, each made when it is asked for."""

    entries: Index
    template: str
    """Of captions by folders' names."""

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        entry = self.entries[range(len(self))[number]]
        file, captions = self.entries.root / entry.path, self._captions(entry)
        first = captions[0] if captions else ""
        several = captions if len(captions) > 1 else ()
        # Without a stamp: training needs none, and whoever keeps something looks the file up.
        return Record(file, printable(str(file)), first, several)

    def captions(self) -> Iterator[str]:
        """Give all captions in order, without the pictures."""
        for entry in self.entries:
            found = self._captions(entry)
            yield found[0] if found else ""

    def passed_over(self) -> Iterator[tuple[str, str]]:
        """Give each file that looks like a picture and is passed over, and why."""
        return self.entries.passed_over()

    def _captions(self, entry: Entry) -> tuple[str, ...]:
        if entry.text is not None:
            return (text_of(self.entries.root / entry.text),)
        if entry.captions is not None:
            return tuple(entry.captions.split(SEPARATOR))
        return (self.template.replace("{name}", entry.label),) if entry.label else ()


def printable(name: str) -> str:
    """A file's name as it can be shown, whatever its bytes are."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
