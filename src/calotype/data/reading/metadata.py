"""Pictures without what stands beside their pixels: texts, thumbnails and profiles, of which Pillow
gives up some that are whole.

No limit of Pillow's is raised: texts are left out and never unpacked, and of a profile no more than
`MAX_PROFILE` is.
"""

import re
import zlib
from collections.abc import Callable, Iterator

from calotype.data.reading.colour import MAX_PROFILE

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
"""Chunks of a PNG that say what its pixels are."""
SMALL = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1}
"""Those that say what colours mean, and how long they are."""
SCAN = 0xDA
"""Marker of a JPEG behind which its pixels come."""
EXIF = re.compile(rb"(infe.{8}(?:..)?)Exif", re.DOTALL)
"""What an AVIF or HEIC calls its EXIF; that a picture is turned it says elsewhere."""
KEPT = {
    0xE0: (b"JFIF", 14),
    0xE1: (b"Exif\0\0", 6),
    0xE2: (b"ICC_PROFILE\0", 14),
    0xEE: (b"Adobe", 12),
}
"""Markers of a JPEG's metadata that say how it is upright and what its colours mean, what those
begin with, and how many bytes they have at least."""


def bare(data: bytes) -> bytes | None:
    """A PNG or JPEG with what says how its pixels are to be seen, and nothing else, or an AVIF or
    HEIC without EXIF; None: it is none of them, or there is nothing else.
    """
    parts = _parts(data)
    if parts is None:
        return None
    found = b"".join(parts(data))
    return found if found != data else None


def _parts(data: bytes) -> Callable[[bytes], Iterator[bytes]] | None:
    if data.startswith(PNG):
        return _of_png
    if data.startswith(JPEG):
        return _of_jpeg
    return _of_media if data[4:8] == b"ftyp" else None


def _of_png(data: bytes) -> Iterator[bytes]:
    place = len(PNG)
    yield PNG
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind, whole = data[place + 4 : place + 8], data[place:end]
        content = whole[8:-4]
        if kind in PIXELS or kind[:1].isupper():
            yield whole
        elif len(whole) == end - place and zlib.crc32(whole[4:-4]).to_bytes(4, "big") == whole[-4:]:
            if kind == b"eXIf" or (kind in SMALL and len(content) == SMALL[kind]):
                yield whole
        place = end


def profile_of(data: bytes) -> bytes | None:
    """The colour profile of a PNG; None: it has none that can be unpacked, or a larger one."""
    start = data.find(b"iCCP", len(PNG), data.find(b"IDAT"))
    if not data.startswith(PNG) or start < 0:
        return None
    length = int.from_bytes(data[start - 4 : start], "big")
    packed = data[start + 4 : start + 4 + length].partition(b"\0")[2]
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return None
    return profile if unpacking.eof else None


def _of_jpeg(data: bytes) -> Iterator[bytes]:
    yield JPEG[:2]
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in (SCAN, 0xFF) or marker < 0xC0:
            break  # what is odd here is left as it is
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        begins, least = KEPT.get(marker, (b"", 2**16))
        whole = end - place - 4 >= least and data.startswith(begins, place + 4)
        if whole or not is_metadata:
            yield data[place:end]
        place = end
    yield data[place:]


def _of_media(data: bytes) -> Iterator[bytes]:
    yield EXIF.sub(rb"\1none", data)
