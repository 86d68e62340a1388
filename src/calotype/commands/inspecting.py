"""Which pictures a detector learns from, finds its threshold by, and is tried on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calotype.data.folders.inspection import (
    Inspection,
    inspected,
    normal_in,
    pictures_in,
    read_masks,
    read_pictures,
)
from calotype.data.reading.transforms import CenterCrop, Transform
from calotype.training.images import Mode
from calotype.uses.detection import Pictures, parted
from calotype.uses.detection.conformal import check_enough

SEEN = (
    "the threshold is by normal pictures that the tokenizer may have been trained on, which look "
    "more usual than new ones: its false-alarm rate is promised only if it was not, and of two "
    "sets AUROC flatters too; --validation names others"
)


@dataclass(frozen=True)
class Listed:
    """Files; nothing is decoded yet."""

    normal: Sequence[Path]
    held: Sequence[Path]
    test: Inspection
    remarks: Sequence[str]

    def read(self, mode: Mode, size: int, count: int | None) -> Pictures:
        """Decode all, `count` at most of those that are learnt from.

        Raises:
            BrokenImage: one cannot be decoded.
        """
        transform = Transform(CenterCrop(size), mode=mode)
        normal = read_pictures(self.normal, transform, count)
        held, test = (read_pictures(files, transform) for files in (self.held, self.test.files))
        told, masks = self.test.anomalous, self.test.masks
        where = None if masks is None else read_masks(masks, transform, (size, size)).numpy()
        return Pictures(normal, held, test, None if told is None else np.array(told), where)


def listed(
    normal: Path | None, data: Path | None, against: Path | None, validation: Path | None,
    held_out: float, rate: float, seed: int,
) -> Listed:  # fmt: skip
    """List pictures, as the flags of `calotype detect` name them.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in one.
        ValueError: flags do not go together, or there are too few normal pictures.
    """
    if (data is None) == (against is None):
        raise ValueError(
            "--data, --against: name one of them, a folder of pictures to judge, or one of which "
            "all are anomalous"
        )
    category = normal or data
    there = category and normal_in(category)
    if (learnt := there or normal) is None:
        raise ValueError(
            f"--normal is missing, and {data} has no train/good as MVTec AD has it: name a folder "
            "of normal pictures"
        )
    files, remarks = _some(learnt), []
    out = validation or (there and category and normal_in(category, "validation"))
    if out is None:
        remarks.append(SEEN)
        files, held = _apart(files, held_out, seed)
    else:
        held = _some(out)
    if against is not None:
        if out is None:
            files, good = _apart(files, held_out, seed + 1)
        else:
            held, good = _apart(held, 0.5, seed)
        strange = _some(against)
        labels = ["good"] * len(good) + [against.name] * len(strange)
        test = Inspection([*good, *strange], labels)
    else:
        assert data is not None
        test = inspected(data)
    check_enough(len(held), rate)
    return Listed(files, held, test, remarks)


def _some(folder: Path) -> list[Path]:
    if not (found := pictures_in(folder)):
        raise FileNotFoundError(
            f"no images in {folder}: expected pictures of formats that are read"
        )
    return found


def _apart(files: Sequence[Path], part: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Most, and a part."""
    if len(files) < 2:
        raise ValueError(f"{files[0].parent} has one picture: it takes two to hold one out")
    return tuple([files[i] for i in places.tolist()]  # type: ignore[return-value]
                 for places in parted(len(files), part, seed))  # fmt: skip
