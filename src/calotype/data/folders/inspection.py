"""Folders of pictures that are to be inspected: MVTec AD's layout, and plain ones.

MVTec AD (Bergmann et al. 2021) has of each category `train/good`, perhaps `validation/good`,
`test` with a sub-folder `good` and one for each kind of defect, and masks,
`ground_truth/<defect>/<name>_mask.png`.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from calotype.data.folders.folder import printable
from calotype.data.folders.survey import files, kind_of
from calotype.data.loading.passes import once
from calotype.data.pictures import Pictures, spread
from calotype.data.reading.records import Reader, Record
from calotype.data.reading.transforms import Transform

GOOD = ("good", "normal", "ok")
"""Names of sub-folders whose pictures are normal."""
TRUTH = "ground_truth"
"""Where masks lie."""
EXPECTED = (
    f"expected pictures, or sub-folders of them of which one is called {' or '.join(GOOD)}, or "
    "MVTec AD's test/good and test/<defect>"
)


@dataclass(frozen=True)
class Inspection:
    """Pictures in a folder, and what is known of them."""

    files: Sequence[Path]
    labels: Sequence[str] | None = None
    """Names of their sub-folders; None: nothing is known."""
    masks: Sequence[Path | None] | None = None
    """Of each where it is anomalous; None of one: nowhere; None: nothing is known."""

    @property
    def anomalous(self) -> list[bool] | None:
        """Of each whether it is; None: nothing is known."""
        return None if self.labels is None else [label not in GOOD for label in self.labels]


def normal_in(folder: Path, split: str = "train") -> Path | None:
    """Where a category in MVTec AD's layout has normal pictures; None: it has no such folder."""
    return next((there for name in GOOD if (there := folder / split / name).is_dir()), None)


def inspected(folder: Path) -> Inspection:
    """List pictures to be inspected; none is decoded yet.

    Raises:
        FileNotFoundError: there is no such folder, no picture in it, or no mask of a defect.
        ValueError: it is not clear which are normal.
    """
    tests = folder / "test"
    root = tests if tests.is_dir() else folder
    alone, parts = pictures_in(root, deep=False), _parts(root)
    if not alone and not parts:
        raise FileNotFoundError(f"no images in {root}: {EXPECTED}")
    if alone and parts:
        raise ValueError(
            f"{root} has pictures, and a sub-folder {parts[0].name} with pictures: which are "
            f"normal is not clear; {EXPECTED}"
        )
    if alone:
        return Inspection(alone)
    if not any(part.name in GOOD for part in parts):
        raise ValueError(
            f"no sub-folder of {root} is called {' or '.join(GOOD)}, so that it is not clear which "
            "pictures are normal: rename one, name the folder of one kind as --data, or that of "
            "anomalous ones as --against"
        )
    found = [(file, part.name) for part in parts for file in pictures_in(part)]
    truth = next((t for t in (root.parent / TRUTH, root / TRUTH) if t.is_dir()), None)
    masks = truth and [_mask(file, label, truth) for file, label in found]
    return Inspection([file for file, _ in found], [label for _, label in found], masks)


def pictures_in(folder: Path, deep: bool = True) -> list[Path]:
    """The pictures in a folder in order, and in its sub-folders.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: name one with pictures")
    ways = sorted(os.walk(folder, followlinks=True)) if deep else [(str(folder), [], [])]
    return [Path(way, name) for way, _, _ in ways for name in files(Path(way))
            if kind_of(name) == "picture"]  # fmt: skip


def read_pictures(
    found: Sequence[Path], transform: Transform, count: int | None = None
) -> UInt8[Tensor, "n c H W"]:
    """Decode pictures, or so many from all over them, to one size.

    Raises:
        BrokenImage: one cannot be decoded.
    """
    records = [Record(file, printable(str(file)), "") for file in found]
    several = spread(Pictures(records, Reader("stop", "the folder")), count)
    return torch.cat([batch["image"] for batch in once(several, 64, transform)])


def read_masks(
    masks: Sequence[Path | None], transform: Transform, size: tuple[int, int]
) -> Bool[Tensor, "n H W"]:
    """Where pictures are anomalous, cropped and resized as they were.

    Raises:
        BrokenImage: one cannot be decoded.
    """
    found = torch.zeros(len(masks), *size, dtype=torch.bool)
    places = [place for place, mask in enumerate(masks) if mask is not None]
    if places:
        there = [mask for mask in masks if mask is not None]
        grey = Transform(transform.crop, mode="L")
        found[places] = read_pictures(there, grey)[:, 0] > 127
    return found


def _parts(root: Path) -> list[Path]:
    """Sub-folders with pictures, masks not among them."""
    each: Iterator[Path] = (p for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    return sorted(p for p in each if p.name != TRUTH and pictures_in(p)) if root.is_dir() else []


def _mask(file: Path, label: str, truth: Path) -> Path | None:
    if label in GOOD:
        return None
    folder = truth / label
    ways = [folder / f"{file.stem}{tail}" for tail in ("_mask.png", ".png", file.suffix)]
    found = next((way for way in ways if way.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no mask of {file}: expected {ways[0]}, as for every defect")
    return found
