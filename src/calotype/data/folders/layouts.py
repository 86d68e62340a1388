"""How pictures and captions lie in a folder: with metadata, with texts beside them, in folders
named after what is in them, or without captions.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from calotype.data.folders.beside import Beside, beside
from calotype.data.folders.described import descriptions
from calotype.data.folders.survey import Survey, ending_of, files, kind_of
from calotype.data.reading.captions import captions_of, normal
from calotype.data.reading.remote import tried

Captions = Literal["found", "metadata", "texts", "folders", "none"]
"""Where captions come from."""
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})
PLAIN = SPLITS | {"image", "images", "img", "imgs", "picture", "pictures", "pics", "photos", "jpg",
                  "jpeg", "png", "data", "dataset"}  # fmt: skip
"""Names of folders that tell nothing of what is in them, unless others stand beside them."""
FORMS = "metadata.jsonl (or .csv, .tsv, .parquet) with file_name and text, or a .txt beside each"
READ_BY = {".parquet": "data:parquet", ".tar": "data:web-dataset"}
"""Sources of files that are no pictures."""


class Found(NamedTuple):
    """A picture in its folder."""

    name: str
    captioned: bool
    text: str | None = None
    """Path of its text from the folder."""
    captions: tuple[str, ...] = ()
    """What metadata say."""


class Pictured(NamedTuple):
    """A folder's pictures, sorted."""

    folder: str
    found: Iterable[Found]
    label: str = ""
    """What its name says of them."""


@dataclass(frozen=True)
class Metadata:
    """Metadata files name the pictures and say their captions."""

    tables: tuple[Path, ...]
    name: ClassVar[Captions] = "metadata"

    def pictures(self, survey: Survey) -> Iterator[Pictured]:
        """Give all pictures, and those in the folder of which nothing is said."""
        with descriptions(survey.root, self.tables) as said:
            for folder in said.folders(survey):
                rows = [Found(row.name, True, None, row.captions) for row in said.of(folder)]
                named, there = {row.name for row in rows}, survey.folders.get(folder)
                names = files(survey.place(folder)) if there and there.pictures else []
                rest = [n for n in names if n not in named and kind_of(n) == "picture"]
                rows += [Found(name, False) for name in rest]
                yield Pictured(folder, sorted(rows, key=lambda row: row.name))


@dataclass(frozen=True)
class Texts:
    """A text beside each picture, read when the picture is; that it can be is checked now."""

    name: ClassVar[Captions] = "texts"
    unused: list[str] = field(default_factory=list)
    """Texts of no picture, once all are given."""

    def pictures(self, survey: Survey) -> Iterator[Pictured]:
        """Give all pictures."""
        self.unused.clear()
        for each in beside(survey):
            yield Pictured(each.folder, self._of(each, survey))

    def _of(self, each: Beside, survey: Survey) -> Iterator[Found]:
        used = set[str]()
        for name, text in each.pairs(survey):
            if text is not None:
                text_of(survey.place(each.folder, text))
                used.add(text)
            yield Found(name, text is not None, text)
        self.unused.extend(os.path.join(each.folder, t) for t in each.texts if t not in used)


@dataclass(frozen=True)
class Folders:
    """The name of the folder that a picture is in."""

    plain: frozenset[str]
    """Folders whose names tell nothing."""
    name: ClassVar[Captions] = "folders"

    def pictures(self, survey: Survey) -> Iterator[Pictured]:
        """Give all pictures."""
        for folder in survey.pictured:
            label = label_of(folder, self.plain)
            captions_of(label, f"the folder {survey.place(folder)}")
            names = (name for name in files(survey.place(folder)) if kind_of(name) == "picture")
            yield Pictured(folder, (Found(name, bool(label)) for name in names), label)


@dataclass(frozen=True)
class Silent:
    """No captions."""

    name: ClassVar[Captions] = "none"

    def pictures(self, survey: Survey) -> Iterator[Pictured]:
        """Give all pictures."""
        for folder in survey.pictured:
            names = (name for name in files(survey.place(folder)) if kind_of(name) == "picture")
            yield Pictured(folder, (Found(name, True) for name in names))


Layout = Metadata | Texts | Folders | Silent


def text_of(file: Path) -> str:
    """Read the caption in a text.

    Raises:
        ValueError: it is broken; the message names the file and the line.
        OSError: it cannot be read.
    """
    return captions_of(tried(file.read_bytes, str(file)), str(file))[0].strip()


def label_of(folder: str, plain: frozenset[str]) -> str:
    """What the name of a folder, or of one that it is in, says of its pictures; it may be empty."""
    while folder in plain:
        folder = os.path.dirname(folder)
    return normal(os.path.basename(folder))


def layout(survey: Survey, captions: Captions) -> Layout:
    """See how captions lie in a folder.

    Raises:
        FileNotFoundError: there are no pictures, or no captions such as are asked for.
        ValueError: it is not clear how they lie.
    """
    root, has_tables = survey.root, bool(survey.with_any("tables"))
    if not survey.pictures and not has_tables:
        raise FileNotFoundError(
            f"no images in {root}{_seen(survey)}: expected pictures, alone, in folders named after "
            f"what is in them, or with captions: {FORMS}"
        )
    if captions == "metadata" and not has_tables:
        raise FileNotFoundError(f"no metadata in {root}: expected metadata.jsonl or .csv")
    if captions == "texts" and not _has_texts(survey):
        raise FileNotFoundError(f"no texts beside pictures in {root}: expected 1.txt for 1.jpg")
    match captions:
        case "found":
            return _found(survey)
        case "metadata":
            return Metadata(_tables(survey))
        case "texts":
            return Texts()
        case "folders":
            return Folders(frozenset())
        case "none":
            return Silent()


def _found(survey: Survey) -> Layout:
    tables = _tables(survey)
    if not any(table.parent == survey.root for table in tables):
        _check_splits(survey)
    texts = _has_texts(survey)
    if tables and texts:
        raise ValueError(
            f"mixed layout in {survey.root}: {tables[0].name} and texts beside pictures; keep one "
            "of them, or choose by --data.captions metadata or texts"
        )
    if tables:
        return Metadata(tables)
    if texts:
        return Texts()
    _check_words(survey)
    plain = _plain(survey)
    has_labels = any(label_of(folder, plain) for folder in survey.pictured)
    return Folders(plain) if has_labels else Silent()


def _tables(survey: Survey) -> tuple[Path, ...]:
    """Find the metadata files, of each folder the only one.

    Raises:
        ValueError: there are two in one.
    """
    tables = []
    for folder in survey.with_any("tables"):
        first, *others = (survey.place(folder, name) for name in survey.folders[folder].tables)
        if others:
            raise ValueError(
                f"{first} and {others[0]} in one folder: keep one, or name it: --data.path {first}"
            )
        tables.append(first)
    return tuple(tables)


def _has_texts(survey: Survey) -> bool:
    """Whether a picture has a text."""
    if not survey.with_any("texts"):
        return False
    return any(text is not None for each in beside(survey) for _, text in each.pairs(survey))


def _check_splits(survey: Survey) -> None:
    tops = {folder.split("/")[0] for folder in survey.pictured}
    if len(tops) > 1 and all(top.lower() in SPLITS for top in tops):
        first = min(tops, key=lambda top: (not top.lower().startswith("train"), top))
        raise ValueError(
            f"{survey.root} holds {' and '.join(sorted(tops))}, parts of a set and no captions: "
            f"give one, --data.path {survey.place(first)}, or say by --data.captions what to read"
        )


def _check_words(survey: Survey) -> None:
    """Refuse to take folders' names, or nothing, for captions where others seem to be.

    Raises:
        ValueError: there are files that seem to hold captions.
    """
    texts, words = survey.with_any("texts"), survey.with_any("words")
    if not texts and not words:
        return
    held = survey.folders
    count = sum(held[f].texts for f in texts) + sum(len(held[f].words) for f in words)
    if words:
        first = survey.place(words[0], held[words[0]].words[0])
    else:
        names = files(survey.place(texts[0]))
        first = survey.place(texts[0], next(n for n in names if kind_of(n) == "text"))
    raise ValueError(
        f"{survey.root}: {count} files seem to hold captions, the first {first}, but belong to no "
        f"picture; expected {FORMS}; --data.captions folders or none passes them over"
    )


def _plain(survey: Survey) -> frozenset[str]:
    """Folders that tell nothing by their names, and stand beside none that does."""
    beside: dict[str, set[str]] = {}
    for folder in survey.pictured:
        while folder:
            above = os.path.dirname(folder)
            beside.setdefault(above, set()).add(folder)
            folder = above
    every = (group for group in beside.values()
             if all(os.path.basename(folder).lower() in PLAIN for folder in group))  # fmt: skip
    return frozenset().union(*every)


def _seen(survey: Survey) -> str:
    """What there is instead of pictures."""
    kinds = (survey.others + Counter(map(ending_of, survey.unread))).most_common(3)
    named = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in kinds)
    source = next((f", which {READ_BY[e]} reads" for e, _ in kinds if e in READ_BY), "")
    return f" (it holds {named}{source})" if named else ""
