"""What pictures look like, without looking at them: sizes by their headers, and a perceptual hash.

The hash is pHash (Zauner 2010): which of the 64 lowest frequencies of the picture in grey are above
their median. The package ImageHash has it too, in objects of some hundred bytes a picture, and
would bring PyWavelets for hashes that are not used here; its hashes know no colour, and of drawings
take a red heart for a blue one. So the mean colour is kept beside it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from calotype.data.identity import digest
from calotype.data.images import FORMATS, BrokenImage
from calotype.data.pictures import Pictures, Record
from calotype.lazy import scipy
from calotype.training.progress import Told

COLOUR = 12
"""Levels of 255 that the mean colours of pictures that look alike may be apart."""
THREADS = min(16, os.cpu_count() or 1)

Row = tuple[int, ...]


def size_of(record: Record) -> Row:
    """Width and height as the header says, before any turn; (0, 0) of what cannot be read."""
    try:
        with opened(record) as image:
            return image.size
    except Exception:  # Pillow raises nearly anything; whether the picture is broken others say
        return _decoded_size(record)


def _decoded_size(record: Record) -> Row:
    try:
        return record.decode()["image"].size
    except BrokenImage:
        return 0, 0


def opened(record: Record) -> Image.Image:
    """A picture of which no more than the header is read.

    Raises:
        Exception: it has none that Pillow can read.
    """
    file = record.encoded()
    if isinstance(file, Image.Image):
        return file.copy()
    return Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)


def look_of(record: Record) -> Row:
    """Hash, and mean red, green and blue; (0, -1, -1, -1) of what cannot be read."""
    try:
        return look(record.decode()["image"])
    except BrokenImage:
        return 0, -1, -1, -1


def look(image: Image.Image) -> Row:
    """Hash of an RGB picture as a signed integer of 64 bits, and its mean red, green and blue."""
    small = image.resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=3.0)
    grey = np.asarray(small.convert("L"), np.float64)
    # Rounded, for in a flat picture what is above the median would be chance.
    low = np.rint(np.asarray(scipy.fft.dctn(grey))[:8, :8])
    bits = np.packbits(low > np.median(low)).view(">i8")
    return (int(bits[0]), *np.asarray(small).mean((0, 1)).round().astype(int).tolist())


def survey(
    dataset: Pictures, name: str, measure: Callable[[Record], Row]
) -> Int64[np.ndarray, "n k"]:
    """Measure every picture; what was measured is kept in the user's cache, and not measured again
    while the dataset is the same.

    Args:
        dataset: The pictures.
        name: What is measured, in a word.
        measure: Measures one.
    """
    file = _kept(dataset, name)
    if file is not None and file.exists():
        with suppress(OSError, SafetensorError, KeyError):
            return load_file(file)[name].numpy()
    parts: list[Int64[np.ndarray, "_ k"]] = []
    with ThreadPoolExecutor(THREADS) as pool, Told(f"reading {name}", len(dataset), 0, 1) as told:
        some = range(0, len(dataset), 64 * THREADS)
        for start in some:  # or all the pictures would come into memory at once
            places = range(start, min(start + some.step, len(dataset)))
            rows = list(pool.map(lambda i: measure(dataset.records[i]), places))
            parts.append(np.asarray(rows, np.int64))
            told.advance(len(places))
    found = np.concatenate(parts)
    if file is not None:
        with suppress(OSError):  # of a home that is full or read-only nothing depends on
            _keep(file, {name: torch.from_numpy(found)})
    return found


def alike(looks: Int64[np.ndarray, "n 4"], apart: int) -> dict[int, int]:
    """Find the pictures that look like an earlier one, which is none of them itself.

    Args:
        looks: As `look` gives them.
        apart: Bits of the 64 that the hashes of pictures that look alike differ in at most.

    Returns:
        The earlier one's place by the later one's.
    """
    bands = _bands(apart)
    seen: list[dict[int, list[int]]] = [{} for _ in bands]
    found: dict[int, int] = {}
    hashes, colours = [value & (2**64 - 1) for value in looks[:, 0].tolist()], looks[:, 1:].tolist()
    for i, (own, colour) in enumerate(zip(hashes, colours, strict=True)):
        if colour[0] < 0:
            continue
        # What differs in no more bits than there are other bands is the same in one of them.
        places = [at.setdefault(own >> low & mask, []) for at, (low, mask) in
                  zip(seen, bands, strict=True)]  # fmt: skip
        near = (
            j for each in places for j in each
            if (hashes[j] ^ own).bit_count() <= apart and _near(colour, colours[j])
        )  # fmt: skip
        if (first := min(near, default=None)) is not None:
            found[i] = first
        else:
            for each in places:
                each.append(i)
    return found


def _near(colour: Sequence[int], other: Sequence[int]) -> bool:
    return max(abs(a - b) for a, b in zip(colour, other, strict=True)) <= COLOUR


def _bands(apart: int) -> list[tuple[int, int]]:
    """Cut 64 bits into `apart` + 1 bands: the lowest bit of each, and its mask."""
    ends = [64 * k // (apart + 1) for k in range(apart + 2)]
    return [(low, 2 ** (high - low) - 1) for low, high in pairwise(ends)]


def _kept(dataset: Pictures, name: str) -> Path | None:
    """Where what was measured of a dataset is kept; None: nothing tells it from others."""
    if not dataset.is_known:
        return None
    known = [dataset.reader.source, dataset.identity(), *_times(dataset.records)]
    return _home() / f"{name}-{digest(known)}.safetensors"


def _home() -> Path:
    """The user's folder of caches, `$CALOTYPE_CACHE` or `calotype` among those of others."""
    if own := os.environ.get("CALOTYPE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "calotype")


def _times(records: Sequence[Record]) -> list[str]:
    """When each file was written: a picture may be replaced by one of as many bytes."""
    if not isinstance(records[0].file, Path):
        return []
    files = (records[i].file for i in range(len(records)))
    with suppress(OSError):
        return [str(file.stat().st_mtime_ns) for file in files if isinstance(file, Path)]
    return []


def _keep(file: Path, tensors: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, beside)
    beside.rename(file)
