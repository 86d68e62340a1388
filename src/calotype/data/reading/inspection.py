"""What one picture is, before anything is made of it: its header, its look, and what is wrong."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageCms

from calotype.data.reading.images import BrokenImage
from calotype.data.reading.looks import THREADS, Row, look, opened, upright_size
from calotype.data.reading.metadata import bare
from calotype.data.reading.records import Record
from calotype.data.splits import Spread
from calotype.training.progress import Told

SIDE = 160
"""Pixels of the longer side of what a page shows, at most."""


@dataclass(frozen=True)
class Header:
    """What a file says of its picture."""

    kind: str
    """JPEG, PNG, ...; none of what is drawn."""
    mode: str
    """Pillow's: RGB, L, CMYK, I;16, ..."""
    size: Row
    """Width and height as it is seen, after the turn that EXIF asks for."""
    turned: bool
    """Whether EXIF asks for one."""
    profile: str
    """The colour profile's own name; empty: there is none."""
    transparent: bool
    frames: int
    """More than one of an animation, of which the first is read."""
    bytes: int
    """0: it is not known."""


@dataclass(frozen=True)
class Inspected:
    """A picture that was looked at."""

    place: int
    """In its source."""
    name: str
    texts: tuple[str, ...]
    """Its captions, one or more, perhaps empty."""
    header: Header | None
    """None: it cannot be read."""
    broken: str = ""
    """What is wrong with it, if something is."""
    look: Row | None = None
    """Hash and mean colour, of what was decoded."""


def inspect(record: Record, place: int, *, decoded: bool) -> Inspected:
    """Look at a picture: at its header alone, or at its pixels too."""
    try:
        header = header_of(record)
        if not decoded:
            return Inspected(place, record.name, record.texts, header)
        image = record.decode()["image"]
    except BrokenImage as error:
        reason = str(error).removeprefix(f"cannot read picture {record.name}: ")
        return Inspected(place, record.name, record.texts, None, reason)
    return Inspected(place, record.name, record.texts, header, "", look(image))


def header_of(record: Record) -> Header:
    """Read a picture's header.

    Raises:
        BrokenImage: it has none that can be read.
    """
    try:
        file = record.encoded()
        size = len(file) if isinstance(file, bytes) else 0
        with opened(record) as image:
            return _header(image, file.stat().st_size if isinstance(file, Path) else size)
    except Exception:  # as of `size_of`
        return _header_of_pixels(record)


def _header_of_pixels(record: Record) -> Header:
    """As `header_of`, of what Pillow takes for broken: without what stands beside its pixels, or
    of what decoding makes of it.
    """
    data = record.contents()
    if isinstance(data, bytes) and (plain := bare(data)):
        with suppress(Exception), opened(record._replace(file=plain)) as image:
            return _header(image, len(data))
    return _header(record.decode()["image"], len(data) if isinstance(data, bytes) else 0)


def _header(image: Image.Image, size: int) -> Header:
    upright = upright_size(image)  # before EXIF is asked, which turns a TIFF
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises nearly anything on broken EXIF
        turn = 1
    return Header(
        image.format or "drawn", image.mode, upright, turn in range(2, 9),
        _profile(image.info.get("icc_profile")),
        image.has_transparency_data, getattr(image, "n_frames", 1), size,
    )  # fmt: skip


def _profile(data: bytes | None) -> str:
    if not data:
        return ""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(data))).strip()
    except Exception:  # as of EXIF
        return "one that cannot be read"


def small_copy(record: Record) -> bytes:
    """A picture for a page, whole and at most `SIDE` pixels long, as a PNG or a JPEG; what is small
    is not made smaller.
    """
    image, file = record.decode()["image"].convert("RGB"), BytesIO()
    lossless = max(image.size) <= SIDE // 2
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    image.save(file, "PNG" if lossless else "JPEG", quality=85)
    return file.getvalue()


def inspected(
    records: Sequence[Record], headers: Sequence[int], decoded: Sequence[int]
) -> Iterator[Inspected]:
    """Look at some of a source's pictures, in their order, by as many threads as there are
    processors.

    Args:
        records: Of the source.
        headers: Places of which the header is read.
        decoded: Those of them that are decoded.
    """
    pixels = set(decoded)
    with ThreadPoolExecutor(THREADS) as pool, Told("looking", len(headers), images=1) as told:
        for start in range(0, len(headers), 16 * THREADS):
            some = headers[start : start + 16 * THREADS]
            yield from pool.map(lambda i: inspect(records[i], i, decoded=i in pixels), some)
            told.advance(len(some))


def spread_out(places: Sequence[int], count: int) -> Sequence[int]:
    """So many of the places, from all over them; or all, if there are no more."""
    n = len(places)
    return places if count >= n else [places[i] for i in Spread(n, count)]
