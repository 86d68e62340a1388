"""Which formats of pictures are read, and what is to be done about the others."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePath
from typing import NamedTuple

from PIL import Image

Image.init()

FORMATS = tuple(
    name
    for name in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
    if name in Image.OPEN  # AVIF and WEBP depend on how Pillow was built
)
"""What is opened. Pillow would run Ghostscript on an EPS file, which no stranger's may ask for."""


class Extra(NamedTuple):
    """A format that a package of the extra `formats` reads."""

    format: str
    """As Pillow calls it."""
    module: str
    register: str
    """Function of the module that tells Pillow; empty: importing it does."""
    suffixes: tuple[str, ...]
    magic: tuple[bytes, ...]
    """How it begins, or, of those of ISO's media files, what they are by the eighth byte."""

    def begins(self, data: bytes) -> bool:
        """Whether bytes are of it."""
        return data.startswith(self.magic) or data[4:12].startswith(self.magic)


CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
"""How a JPEG XL begins."""
SIDES = (9, 13, 18, 30)
"""Bits in which it gives a side, by the two that come first."""
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Of width to height, which need no number of their own."""
BRANDS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"))

EXTRAS = (
    Extra(
        "HEIF", "pillow_heif", "register_heif_opener", (".heic", ".heics", ".heif", ".hif"), BRANDS
    ),
    Extra("JXL", "pillow_jxl", "", (".jxl",), (CODESTREAM, CONTAINER)),
)
INSTALLED = tuple(extra for extra in EXTRAS if find_spec(extra.module))

JPEGS = frozenset({".jfi", ".jif", ".mpo", ".pjp", ".pjpeg"})
"""Endings of JPEGs that Pillow does not know, or takes for another format."""

SUFFIXES = (
    frozenset(s for s, name in Image.registered_extensions().items() if name in FORMATS)
    | {suffix for extra in INSTALLED for suffix in extra.suffixes}
    | JPEGS
)
"""File endings of what is read, in lower case, with the dot."""

EXTRA, RAW = 'pip install "calotype[formats]" reads them', "develop them to JPEG or PNG"
LAYERS, VECTORS, CONVERT = "export them as PNG", "draw them as PNG", "convert them to PNG"
MENDS = {
    EXTRA: " ".join(" ".join(extra.suffixes) for extra in EXTRAS if extra not in INSTALLED),
    RAW: ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw "
    ".rw2 .rwl .sr2 .srf .srw .x3f",
    LAYERS: ".afphoto .clip .kra .ora .psb .psd .xcf",
    VECTORS: ".ai .emf .eps .svg .svgz .wmf",
    CONVERT: ".cur .dcm .dds .exr .fits .hdr .icns .ico .jxr .pcx .qoi .sgi .tga .wdp .xbm .xpm",
}
UNREAD = {suffix: mend for mend, suffixes in MENDS.items() for suffix in suffixes.split()}
"""Endings of pictures that are not read, and what makes them readable."""


def looks_like_picture(name: str) -> bool:
    """Whether a file is a picture by its name, and of a kind that is not read."""
    return _suffix(name) in UNREAD


def passed_over(names: Iterable[str]) -> list[str]:
    """What to say of the files among these that look like pictures and are not read: one line of
    each ending, the most frequent first.
    """
    names = [name for name in names if looks_like_picture(name)]
    firsts = {_suffix(name): name for name in reversed(names)}
    counts = Counter(map(_suffix, names))
    return [
        f"passed over: {count} {suffix} ({firsts[suffix]}{', ...' if count > 1 else ''}): "
        f"{UNREAD[suffix]}"
        for suffix, count in counts.most_common()
    ]


NO_PICTURES = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch what it stands for by git lfs pull",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG drawing; draw it as PNG",
}
"""What files often hold in a picture's stead, by how they begin, in lower case."""


@cache
def extra_formats() -> tuple[str, ...]:
    """Have Pillow know the formats of the extra `formats`, as far as it is installed; their names.
    Not before a picture asks for it: the packages take their time to import.
    """
    for extra in INSTALLED:
        module = import_module(extra.module)
        if extra.register:
            getattr(module, extra.register)()
    return tuple(extra.format for extra in INSTALLED)


def what_is(data: bytes) -> str:
    """What bytes are that hold no picture of a format that is read."""
    if not data:
        return "no bytes"
    for mark, what in NO_PICTURES.items():
        if data[:64].lstrip().lower().startswith(mark):
            return what
    for extra in EXTRAS:
        if extra not in INSTALLED and extra.begins(data):
            return f"{extra.format}: {EXTRA}"
    known = (*FORMATS, *(extra.format for extra in INSTALLED))
    return f"none of the formats {', '.join(known)}"


def size_of_jxl(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG XL declares; None: it is none.

    Raises:
        ValueError: it does not tell.
    """
    if not data.startswith((CODESTREAM, CONTAINER)):
        return None
    start = 0 if data.startswith(CODESTREAM) else _codestream(data)
    bits = int.from_bytes(data[start + 2 : start + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        taken, bits = bits & ((1 << count) - 1), bits >> count
        return taken

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take(SIDES[take(2)]) + 1

    height, ratio = side(), take(3)
    if not ratio:
        return side(), height
    wide, high = RATIOS[ratio - 1]
    return height * wide // high, height


def _codestream(data: bytes) -> int:
    """Where it begins in a container, which is made of boxes."""
    place = 0
    while place + 16 <= len(data):
        size, kind, head = (
            int.from_bytes(data[place : place + 4], "big"),
            data[place + 4 : place + 8],
            8,
        )
        if size == 1:
            size, head = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            return place + head + (4 if kind == b"jxlp" else 0)
        if size < head:
            break
        place += size
    raise ValueError("a JPEG XL without a picture")


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()
