"""Somebody's own folder of pictures, looked through once: what is in it, what is passed over and
why, and small copies of it, because a camera's pictures take longer to decode than to learn from.
"""

import json
import re
import shutil
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image

from calotype.data import BrokenImage, Folder, Pictures
from calotype.data.folders.folder import METADATA
from calotype.data.folders.layouts import Captions
from calotype.data.folders.survey import TEXTS, ending_of, survey
from calotype.data.pictures import so_many
from calotype.training.files import publish

SIDE = 160
"""Pixels of a copy's short side, if the picture has so many."""
REPORT = "looked_through.json"
"""In the folder of copies."""
FEW = 1000
"""Pictures; a generator of fewer repeats them more than it makes new ones."""


@dataclass(frozen=True)
class Looked:
    """What was found in a folder."""

    source: str
    """The folder."""
    found: int
    """Pictures in it."""
    copied: int
    """Those that are learnt from: that can be read, and for which there was time."""
    captioned: int
    """Copies with a caption."""
    captions: int
    """Different ones."""
    tell_sides: bool
    """Whether a caption says left or right, so that mirrored pictures would be wrong."""
    smallest: tuple[int, int]
    """Width and height of the picture with the shortest side."""
    largest: tuple[int, int]
    broken: dict[str, str]
    """Pictures that cannot be read, by name, and why."""
    others: dict[str, int]
    """How many files of other kinds there are, by their ending."""

    def lines(self) -> list[str]:
        """All of it, in plain words."""
        (w, h), (wide, high) = self.smallest, self.largest
        one = self.smallest == self.largest
        sizes = f"all of {w}x{h}" if one else f"from {w}x{h} to {wide}x{high}"
        lines = [f"{so_many(self.found)} in {self.source}, {sizes} pixels", self._captions()]
        for ending, count in self.others.items():
            lines.append(f"passed over: {count} files {ending}: no picture that can be read here")
        if self.broken:
            name, reason = next(iter(self.broken.items()))
            lines.append(f"passed over: {len(self.broken)} that cannot be read; {name}: {reason}")
        if left := self.found - self.copied - len(self.broken):
            lines.append(f"left out: {left}, which the minutes do not suffice to read")
        if self.copied < FEW:
            lines.append(f"{so_many(self.copied)} are few: what is drawn will be hardly "
                         "more than these again; from some thousands on it is new")  # fmt: skip
        return lines

    @property
    def prompted(self) -> bool:
        """Whether so many have a caption that a generator can learn to heed it."""
        return 2 * self.captioned >= self.copied

    def _captions(self) -> str:
        if self.prompted:
            return (f"{self.captioned} have a caption, {self.captions} different ones: you will "
                    "draw by prompts")  # fmt: skip
        some = f"only {self.captioned} of them have" if self.captioned else "none of them has"
        return (f"{some} a caption: what is drawn is like them and asks for no "
                "prompt. A .txt file beside each picture, or folders named after what is in "
                "them, would give captions")  # fmt: skip


def look_through(
    folder: Path, copies: Path, seconds: float, seed: int, captions: Captions = "found"
) -> Looked:
    """Read a folder's pictures and write small copies, with their captions, that
    `Folder(copies)` reads; what has been looked through before is not read again.

    Args:
        folder: The pictures, laid out as `Folder` says.
        copies: Where the copies go.
        seconds: After which no more are read, if some can be.
        seed: Of the order in which they are read, if there is no time for all.
        captions: Where they come from.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it.
        ValueError: the layout is mixed, none of the pictures can be read, or the copies are of
            another folder.
    """
    if (copies / REPORT).exists():
        return _looked_before(folder, copies)
    pictures = opened(folder, captions)
    beside = copies.with_name(f".{copies.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    looked = _copy(folder, pictures, beside, seconds, seed)
    (beside / REPORT).write_text(json.dumps(asdict(looked), indent=1) + "\n")
    publish(beside, copies)
    return looked


def opened(folder: Path, captions: Captions) -> Pictures:
    """A folder's pictures, also those without a caption. What is passed over is not warned of:
    `Looked` says it.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it.
        ValueError: it is not clear how captions lie in it, or some cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Folder(folder, captions=captions, uncaptioned="empty").build()


def _looked_before(folder: Path, copies: Path) -> Looked:
    kept = json.loads((copies / REPORT).read_text())
    looked = Looked(**{**kept, "smallest": tuple(kept["smallest"]),
                       "largest": tuple(kept["largest"])})  # fmt: skip
    if looked.source != str(folder.resolve()):
        raise ValueError(
            f"{copies.parent} was begun with the pictures of {looked.source}: give these again, "
            "or another --out"
        )
    return looked


def _copy(folder: Path, pictures: Pictures, beside: Path, seconds: float, seed: int) -> Looked:
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed)).tolist()
    until, captions, sizes = time.monotonic() + seconds, dict[str, str](), list[tuple[int, int]]()
    broken: dict[str, str] = {}
    for i in order:
        if captions and time.monotonic() > until:
            break
        try:
            example = pictures.records[i].decode()
        except BrokenImage as error:
            broken[Path(pictures.records[i].name).name] = str(error).split(": ", 1)[-1]
            continue
        sizes.append(example["image"].size)
        name = f"{i:06d}.png"
        _smaller(example["image"]).save(beside / name)
        captions[name] = example["caption"].strip()
    if not captions:
        name, reason = next(iter(broken.items()))
        raise ValueError(
            f"none of {len(broken)} pictures in {folder} can be read; {name}: {reason}"
        )
    rows = [json.dumps({"file_name": n, "caption": c}) for n, c in sorted(captions.items())]
    (beside / METADATA[0]).write_text("\n".join(rows) + "\n")
    said = [caption for caption in captions.values() if caption]
    words = {word for caption in said for word in re.findall(r"[a-z]+", caption.lower())}
    return Looked(
        str(folder.resolve()), len(pictures), len(captions), len(said), len(set(said)),
        bool(words & {"left", "right"}), min(sizes, key=min), max(sizes, key=min), broken,
        others(folder, unread=True),
    )  # fmt: skip


def _smaller(image: Image.Image) -> Image.Image:
    """Make the short side `SIDE` pixels long, if it is longer."""
    scale = SIDE / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(SIDE, round(scale * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def others(folder: Path, *, unread: bool = False) -> dict[str, int]:
    """Files that are neither pictures nor captions, by their ending, the most frequent first.

    Args:
        folder: Where they are; what is no folder, a metadata file, has none.
        unread: Count pictures of formats that are not read, too, which an index tells itself.
    """
    if not folder.is_dir():
        return {}
    found = survey(folder)
    kinds = Counter({ending or "without an ending": count
                     for ending, count in found.others.items() if ending not in TEXTS})  # fmt: skip
    kinds.update(ending_of(name) for name in found.unread if unread)
    return dict(kinds.most_common(5))
