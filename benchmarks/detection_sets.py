"""Pictures with planted defects in MVTec AD's layout, the same each time."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

from calotype.data import Scenes
from calotype.data.drawn.defects import DEFECTS, planted

SIZE = 64
"""Pixels a side."""
PARTS = {"train": 1200, "validation": 200, "test": 100}
"""Normal pictures of each part; a picture with a defect stands beside each fifth of the test's."""


def write_sets(folder: Path, photos: Path) -> dict[str, Path]:
    """Write scenes and photographs, those that are not there yet."""
    sources = {"scenes": _scenes, "photos": lambda part: _photos(photos, part)}
    for name, source in sources.items():
        if (folder / name).is_dir():
            continue
        for part, count in PARTS.items():
            pictures = source(part)
            _save(folder / f".{name}", part, [next(pictures) for _ in range(count)])
        defective = source("defective")
        for number, kind in enumerate(DEFECTS):
            _save_defects(folder / f".{name}", kind, defective, PARTS["test"] // 5, number)
        (folder / f".{name}").rename(folder / name)
    return {name: folder / name for name in sources}


def _scenes(part: str) -> Iterator[np.ndarray]:
    seed = ["train", "validation", "test", "defective"].index(part)
    data = Scenes(size=SIZE, seed=seed).build()
    for number in range(10**6):
        pixels = data.batch([number])["image"][0]
        yield ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def _photos(table: Path, part: str) -> Iterator[np.ndarray]:
    """Crops of other photographs in each part; those with defects are of the test's photographs."""
    rows = parquet.read_table(table, columns=["photo", "image"]).to_pylist()
    names = sorted({row["photo"] for row in rows})
    order = np.random.default_rng(0).permutation(len(names))
    cuts = {"train": (0.0, 0.72), "validation": (0.72, 0.84), "test": (0.84, 1.0)}
    low, high = cuts["test" if part == "defective" else part]
    own = {names[i] for i in order[int(low * len(names)) : int(high * len(names))]}
    found = [row for row in rows if row["photo"] in own]
    chosen = np.random.default_rng(1).permutation(len(found))
    # Of the test's crops one half stays whole and the other is damaged.
    half = {"test": slice(0, None, 2), "defective": slice(1, None, 2)}.get(part, slice(None))
    for place in chosen[half]:
        picture = Image.open(io.BytesIO(found[place]["image"]["bytes"])).convert("RGB")
        yield np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def _save(root: Path, part: str, pictures: list[np.ndarray]) -> None:
    folder = root / part / "good"
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number:04}.png")


def _save_defects(
    root: Path, kind: str, pictures: Iterator[np.ndarray], count: int, seed: int
) -> None:
    pictured, masked = root / "test" / kind, root / "ground_truth" / kind
    for folder in (pictured, masked):
        folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while number < count:
        try:
            found, mask = planted(next(pictures), kind, np.random.default_rng((seed, number)))
        except ValueError:  # it cannot be seen in this one
            continue
        Image.fromarray(found).save(pictured / f"{number:03}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(masked / f"{number:03}_mask.png")
        number += 1
