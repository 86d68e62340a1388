"""Texts beside pictures: `1.txt`, `1.caption` or `1.jpg.txt` for `1.jpg`, in its own folder or in
one of captions beside that.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from calotype.data.folders.survey import Survey, files, in_order, kind_of
from calotype.data.reading.captions import normal

CAPTIONS = frozenset({"caption", "captions", "text", "texts", "txt", "prompt", "prompts"})
"""Names of folders that hold the captions of pictures in a folder beside them."""


class Captioned(NamedTuple):
    """A picture, and its text."""

    name: str
    text: str | None
    """The text's path from the picture's folder; None: it has none."""


@dataclass(frozen=True)
class Beside:
    """The pictures of a folder and the texts that may be theirs."""

    folder: str
    pictures: Sequence[str]
    """Their names, sorted."""
    texts: Sequence[str]
    """Paths from the folder."""

    def pairs(self, survey: Survey) -> Iterator[Captioned]:
        """Give each picture its text. Names are compared by their normal form; where two texts have
        the same, by themselves.

        Raises:
            ValueError: a picture has two texts.
        """
        called: dict[str, list[str]] = defaultdict(list)
        for text in self.texts:
            called[normal(_stem(text))].append(text)
        for name in self.pictures:
            found = called.get(normal(_stem(name)), []) + called.get(normal(name), [])
            if len(found) > 1:
                same = [text for text in found if _stem(text) in (_stem(name), name)]
                found = same or found
            if len(found) > 1:
                first, second = (survey.place(self.folder, text) for text in found[:2])
                raise ValueError(
                    f"{survey.place(self.folder, name)} has two captions, {first} and {second}: "
                    "keep one of them"
                )
            yield Captioned(name, found[0] if found else None)


def beside(survey: Survey) -> Iterator[Beside]:
    """Give each folder's pictures, and the texts that lie where theirs would.

    Raises:
        ValueError: a folder of captions may be that of several folders of pictures.
    """
    theirs = _caption_folders(survey)
    for folder in survey.pictured:
        names = files(survey.place(folder))
        texts = [name for name in names if kind_of(name) == "text"]
        for other in theirs.get(folder, []):
            way = os.path.relpath(other or ".", folder or ".")
            there = files(survey.place(other))
            texts += [os.path.join(way, name) for name in there if kind_of(name) == "text"]
        yield Beside(folder, [name for name in names if kind_of(name) == "picture"], texts)


def _caption_folders(survey: Survey) -> dict[str, list[str]]:
    """By each folder of pictures, those with captions of them."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder in survey.with_any("texts"):
        if survey.folders[folder].pictures:
            continue
        pictured = _mirrored(survey, folder)
        if len(pictured) > 1:
            raise ValueError(
                f"{survey.place(folder)} may hold the captions of {survey.place(pictured[0])} or "
                f"of {survey.place(pictured[1])}: put each text beside its picture"
            )
        for each in pictured:
            found[each].append(folder)
    return found


def _mirrored(survey: Survey, folder: str) -> list[str]:
    """Folders of pictures where those lie whose captions a folder holds: of `captions/a` that is
    `a`, or `images/a`.
    """
    parts = folder.split("/")
    named = [i for i, part in enumerate(parts) if part.lower() in CAPTIONS]
    if not named:
        return []
    above, rest = parts[: named[-1]], parts[named[-1] + 1 :]
    beside = [[*above, name, *rest] for name in survey.folders["/".join(above)].folders]
    paths = {"/".join(way) for way in ([*above, *rest], *beside)}
    return in_order(p for p in paths if p in survey.folders and survey.folders[p].pictures)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
