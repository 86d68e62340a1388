"""What pictures look like, without looking at them: sizes by their headers, and a perceptual hash.

The hash is pHash (Zauner 2010): which of the 64 lowest frequencies of the picture in grey are above
their median. The package ImageHash has it too, in objects of some hundred bytes a picture, and
would bring PyWavelets for hashes that are not used here; its hashes know no colour, and of drawings
take a red heart for a blue one. So the mean colour is kept beside it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path
from struct import unpack
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from calotype.data.cache.provenance import stamp_of, stamp_of_record
from calotype.data.identity import digest
from calotype.data.pictures import Pictures
from calotype.data.reading.images import FORMATS, SIDEWAYS, BrokenImage
from calotype.data.reading.paths import alone, cache_home
from calotype.data.reading.records import Record
from calotype.data.splits import Spread
from calotype.lazy import scipy
from calotype.training.progress import Told

COLOUR = 12
"""Levels of 255 that the mean colours of pictures that look alike may be apart."""
LOOKED_AT = 16
"""Pictures that are measured again, and named, to see that what was kept is still true."""
STAMPED = 200_000
"""Files up to which the time of each is asked, to see that. Of more, so many from all over them: to
ask for ten million takes minutes, and over a network an hour."""
THREADS = min(16, os.cpu_count() or 1)

Row = tuple[int, ...]


def size_of(record: Record) -> tuple[int, int]:
    """Width and height of a picture as it is when it is decoded and upright, by its header if that
    tells; (0, 0) of what cannot be read.

    Raises:
        OSError: its file cannot be read, which is no fault of the picture.
    """
    try:
        with opened(record) as image:
            return upright_size(image)
    except Exception:  # Pillow raises nearly anything; what is wrong decoding tells
        return _decoded_size(record)


def _decoded_size(record: Record) -> tuple[int, int]:
    try:
        example = record.decode()
    except BrokenImage:
        return 0, 0
    return example.get("size", example["image"].size)


def opened(record: Record) -> Image.Image:
    """A picture of which no more than the header is read.

    Raises:
        Exception: it has none that Pillow can read.
    """
    file = record.encoded()
    if isinstance(file, Image.Image):
        return file.copy()
    return Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture that was opened, after the turn that its EXIF asks for."""
    # Of a TIFF, Pillow says the size that it has when it is upright.
    if image.format == "TIFF":
        return image.size
    png = isinstance(image, PngImageFile) and "exif" not in image.info and image.fp
    if png and (late := _late_exif(png)):
        image.info["exif"] = late
    try:
        # Not a PNG's own, which decodes all of it to see what follows the pixels.
        turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in SIDEWAYS
    except Exception:  # as of `size_of`; the picture beside it may well be good
        turned = False
    width, height = image.size
    return (height, width) if turned else (width, height)


def _late_exif(file: Any) -> bytes:
    """EXIF of a PNG, an open file, that may follow its pixels, which are not read; b"": it has
    none.
    """
    place, found = file.tell(), b""
    file.seek(8)
    while not found and len(head := file.read(8)) == 8:
        length, kind = unpack(">I4s", head)
        if kind == b"eXIf":
            found = b"Exif\0\0" + file.read(length)
        file.seek(length + 4, 1)
    file.seek(place)
    return found


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
    dataset: Pictures, name: str, measure: Callable[[Record], Row], stamped: int | None = STAMPED
) -> Int64[np.ndarray, "n k"]:
    """Measure every picture; what was measured is kept in the user's cache, and not measured again
    while the dataset is the same. Of several processes one measures, and the others find it.

    Args:
        dataset: The pictures.
        name: What is measured, in a word.
        measure: Measures one.
        stamped: Files that are asked for their times, to see whether they changed; None: all.
    """
    file = _place(dataset, name, stamped)
    if file is None:
        return measured(dataset, name, measure)
    with alone(file.with_suffix(".lock")):
        with suppress(OSError, SafetensorError, KeyError):
            kept = load_file(file)[name].numpy()
            if _holds(dataset, kept, measure):
                return kept
        found = measured(dataset, name, measure)
        with suppress(OSError, SafetensorError):  # of a home that is full nothing depends on
            _keep(file, {name: torch.from_numpy(found)})
    return found


def measured(
    dataset: Pictures, name: str, measure: Callable[[Record], Row]
) -> Int64[np.ndarray, "n k"]:
    """Measure every picture; as of `survey`, but nothing is kept."""
    parts: list[Int64[np.ndarray, "_ k"]] = []
    with ThreadPoolExecutor(THREADS) as pool, Told(f"reading {name}", len(dataset), 0, 1) as told:
        some = range(0, len(dataset), 64 * THREADS)
        for start in some:  # or all the pictures would come into memory at once
            places = range(start, min(start + some.step, len(dataset)))
            # Taken by one thread: what is read in order cannot be asked by several at once.
            rows = list(pool.map(measure, (dataset.records[i] for i in places)))
            parts.append(np.asarray(rows, np.int64))
            told.advance(len(places))
    return np.concatenate(parts)


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


def _place(dataset: Pictures, name: str, stamped: int | None) -> Path | None:
    """Where what was measured of a dataset is kept; None: nothing tells it from others, or whether
    it changed.
    """
    if not dataset.is_known:
        return None
    stamps = _Stamps(dataset.records, stamped)
    some = [dataset.records[i].name for i in _some(len(dataset))]
    known = [dataset.reader.source, dataset.identity(), str(len(dataset)), *some]
    found = digest(chain(known, stamps))
    return cache_home() / f"{name}-{found}.safetensors" if stamps.known else None


class _Stamps:
    """What changes with the files, if only in their times: a picture, or a table, may be replaced
    by one of as many bytes. Of more files than `most` so many are looked up.
    """

    def __init__(self, records: Sequence[Record], most: int | None) -> None:
        self.records, self.most = records, most
        self.known = True
        """Whether each that was given so far says something."""

    def __iter__(self) -> Iterator[str]:
        for stamp in self._each():
            self.known &= bool(stamp)
            yield stamp

    def _each(self) -> Iterable[str]:
        paths: Callable[[], Sequence[str]] | None = getattr(self.records, "paths", None)
        if paths and not isinstance(self.records[0].file, Path):
            return map(stamp_of, paths())
        total, seen = len(self.records), lru_cache(stamp_of)  # a tar's pictures lie in a row
        some = Spread(total, total if self.most is None else min(self.most, total))
        return (stamp_of_record(self.records[i], seen) for i in some)


def _some(total: int) -> Spread:
    return Spread(total, min(LOOKED_AT, total))


def _holds(dataset: Pictures, kept: Int64[np.ndarray, "n k"],
           measure: Callable[[Record], Row]) -> bool:  # fmt: skip
    """Whether what was kept is true of some pictures that have no time, being at URLs."""
    if len(kept) != len(dataset):
        return False
    some = ((i, dataset.records[i]) for i in _some(len(dataset)))
    return all(measure(record) == tuple(kept[i].tolist()) for i, record in some
               if isinstance(record.file, str))  # fmt: skip


def _keep(file: Path, tensors: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, beside)
    beside.rename(file)
