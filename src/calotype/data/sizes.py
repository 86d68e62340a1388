"""Widths and heights of a dataset's pictures, of which only the headers are read, and once."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from struct import unpack
from typing import Any
from weakref import WeakKeyDictionary

import fsspec
import numpy as np
import torch
from jaxtyping import Int32
from PIL import ExifTags, Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from calotype.data.identity import identity
from calotype.data.images import FORMATS, BrokenImage
from calotype.data.pictures import Extent, Pictures, Record
from calotype.training.progress import track

Sizes = Int32[np.ndarray, "_ 2"]
"""Width and height of each picture, upright, in pixels; 0 and 0: it is broken."""

AT_ONCE = 4096
"""Headers that are read between two words of how far it is."""
THREADS = 8
"""That read headers: on a network's disk most of the time is waiting."""
LOOKED_AT = 16
"""Pictures whose headers are read again to see that what was kept is still true."""
MANY = 10_000
"""Pictures from which on their sizes are kept from run to run."""
_KNOWN: WeakKeyDictionary[Dataset[Any], Sizes] = WeakKeyDictionary()


def sizes(dataset: Dataset[Any]) -> Sizes:
    """Sizes of a map-style dataset's pictures. Those of many are kept in the user's cache folder,
    `$XDG_CACHE_HOME/calotype/sizes`, by what tells the pictures from others; a header that is
    broken is skipped, or stops, as its source says. A dataset of another kind may know them
    itself, by a method `sizes()`; else its pictures are decoded.

    Raises:
        BrokenImage: a header is broken, and the source's policy is "stop".
    """
    if dataset not in _KNOWN:
        _KNOWN[dataset] = _found(dataset)
    return _KNOWN[dataset]


def _found(dataset: Dataset[Any]) -> Sizes:
    asked: Callable[[], Sizes] | None = getattr(dataset, "sizes", None)
    if asked:
        return asked()
    if not isinstance(dataset, Pictures):
        total = len(dataset)  # pyright: ignore[reportArgumentType] (map-style datasets have one)
        found = [dataset[i]["image"].size for i in range(total)]
        return np.array(found, np.int32).reshape(-1, 2)
    if len(dataset) < MANY or dataset.identity() == f"{len(dataset)} pictures":
        return _read(dataset)
    file = _place(dataset)
    with _alone(file):  # of several processes the others find what the first keeps
        kept = _kept(file)
        if kept is None or not _holds(dataset, kept):
            kept = _read(dataset)
            _keep(file, kept)
    return kept


def _read(dataset: Pictures) -> Sizes:
    total = len(dataset)
    found: list[tuple[int, int]] = []
    starts: Iterable[int] = range(0, total, AT_ONCE)
    if total > AT_ONCE:
        starts = track(starts, f"sizes of pictures, {AT_ONCE} at a time", -(-total // AT_ONCE))
    with ThreadPoolExecutor(THREADS) as pool:
        for first in starts:
            some = [dataset.records[i] for i in range(first, min(first + AT_ONCE, total))]
            found += pool.map(lambda record: _or_skipped(dataset, record), some)
    return np.array(found, np.int32)


def _or_skipped(dataset: Pictures, record: Record) -> tuple[int, int]:
    try:
        return size_of(record)
    except BrokenImage as error:
        if dataset.reader.on_error == "stop":
            raise
        dataset.reader.skip(record.name, str(error))
        return 0, 0


def _place(dataset: Pictures) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    some = [dataset.records[i].name for i in _some(len(dataset))]
    name = sha256(repr((identity(dataset), len(dataset), some)).encode(errors="surrogateescape"))
    return Path(root, "calotype", "sizes", f"{name.hexdigest()[:32]}.safetensors")


def _some(total: int) -> list[int]:
    return [i * total // LOOKED_AT for i in range(LOOKED_AT)]


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """While it is entered, no other process makes a file; where there may be none, all do."""
    with ExitStack() as stack:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(file.with_suffix(".lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kept(file: Path) -> Sizes | None:
    try:
        return load_file(file)["sizes"].numpy()
    except (OSError, SafetensorError, KeyError):
        return None


def _keep(file: Path, found: Sizes) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        save_file({"sizes": torch.from_numpy(found)}, beside)
        beside.replace(file)
    except (OSError, SafetensorError):
        beside.unlink(missing_ok=True)  # a home that cannot be written is no reason to stop


def _holds(dataset: Pictures, kept: Sizes) -> bool:
    if len(kept) != len(dataset):
        return False
    return all(_or_skipped(dataset, dataset.records[i]) == tuple(kept[i].tolist())
               for i in _some(len(dataset)))  # fmt: skip


def size_of(record: Record) -> tuple[int, int]:
    """Width and height of a record's picture as it is when it is decoded and upright.

    Raises:
        BrokenImage: it has no header that can be read.
        OSError: the disk or network failed.
    """
    if isinstance(record.file, Image.Image):
        return _upright(record.file, None)
    try:
        with _opened(record.file) as file:
            return _upright(Image.open(file, formats=FORMATS), file)
    # Fed with broken bytes, Pillow raises nearly every exception there is.
    except Exception as error:
        if _is_the_systems(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenImage(f"cannot read picture {record.name}: {reason}") from error


def _is_the_systems(error: Exception) -> bool:
    """Whether an error says nothing of the picture: memory, or a disk or network that failed."""
    failed = isinstance(error, OSError) and error.errno is not None
    missing = isinstance(error, FileNotFoundError | IsADirectoryError)
    return isinstance(error, MemoryError) or (failed and not missing)


@contextmanager
def _opened(file: bytes | Path | str | Extent) -> Iterator[Any]:
    """A binary file that is read no further than it is asked."""
    if isinstance(file, Extent):
        yield BytesIO(file.read())
    elif isinstance(file, bytes):
        yield BytesIO(file)
    elif isinstance(file, Path):
        with file.open("rb") as opened:
            yield opened
    else:
        with fsspec.open(file, "rb") as remote:
            yield remote


TURNED = (5, 6, 7, 8)
"""EXIF orientations whose width is the upright picture's height."""


def _upright(image: Image.Image, file: Any) -> tuple[int, int]:
    # Of a TIFF, Pillow says the size that it has when it is upright.
    if image.format == "TIFF":
        return image.size
    if image.format == "PNG" and file is not None and "exif" not in image.info:
        image.info["exif"] = _late_exif(file)
    try:
        # Not a PNG's own, which decodes all of it to see what follows the pixels.
        turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in TURNED
    except Exception:
        turned = False
    width, height = image.size
    return (height, width) if turned else (width, height)


def _late_exif(file: Any) -> bytes:
    """EXIF of a PNG that may follow its pixels, which are not read; b"": it has none."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = unpack(">I4s", head)
        if kind == b"eXIf":
            return b"Exif\0\0" + file.read(length)
        file.seek(length + 4, 1)
    return b""
