"""Whatever a file holds, it is decoded or refused as damaged or as another model's."""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import coded
import tiny
from calotype.uses.compression import (
    Codec,
    Compressed,
    DamagedError,
    OtherModelError,
    container,
)
from calotype.uses.compression.container import LARGEST, MOST

CHANGES = (1, 2, 0x10, 0x7F, 0x80, 0xFF)
"""What a byte is changed by, bit for bit."""


def mended(body: bytes) -> bytes:
    """With the checksum that makes it be read on."""
    return body + zlib.crc32(body).to_bytes(4, "big")


def broken(file: bytes) -> Iterator[bytes]:
    """Each prefix, and each byte changed, with the last checksum as it was and mended."""
    body = file[:-4]
    yield from (file[:n] for n in range(len(file)))
    yield from (mended(body[:n]) for n in range(len(body)))
    for place in range(len(body)):
        for change in CHANGES:
            other = bytearray(body)
            other[place] ^= change
            yield bytes(other) + file[-4:]
            yield mended(bytes(other))


def outcome(codec: Codec, file: bytes) -> str:
    """All else is raised."""
    try:
        (image,) = codec.decompress([file])
    except (DamagedError, OtherModelError) as error:
        return type(error).__name__
    assert image.isfinite().all()
    return "decoded"


@pytest.fixture(scope="module")
def codec() -> Codec:
    """A transformer of two shapes, and frequencies."""
    return coded.codec(tiny.VQ_BOTTLENECK, (4, 4), (2, 6))


@pytest.mark.parametrize("kind", ["transformer", "frequencies", "hyperprior"])
def test_each_prefix_and_each_changed_byte_is_decoded_or_refused(codec, kind):
    width = 9 if kind == "frequencies" else 8
    image = torch.rand(1, 3, 8, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    own = coded.continuous() if kind == "hyperprior" else codec
    (file,) = own.compress(image)
    assert Compressed.read(file).method == {"transformer": 1, "frequencies": 0}.get(kind, 148)
    found = Counter(outcome(own, each) for each in broken(file))
    assert found["DamagedError"] > 10 * found["decoded"] and found["OtherModelError"] > 30
    assert outcome(own, file) == "decoded"


@pytest.mark.parametrize("sides", [
    b"", b"\x08", b"\x80", b"\xff" * 8, b"\x08\xff\xff\xff\xff", b"\0\x08", b"\x08\0",
    b"\x88\0\x08",
])  # fmt: skip
def test_bug_heads_that_end_within_a_size_were_an_index_error(codec, sides):
    """And sizes of no pixels, and of more bytes than any is written in, were read."""
    (file,) = codec.compress(tiny.images(1)[..., :8, :8])
    for after in (b"", b"\xff\xff", b"\xff" * 20):
        head = file[:10] + sides + (after if len(sides) > 2 or not after else b"")
        for body in (head, head + bytes(2)):
            with pytest.raises(DamagedError):
                codec.read(mended(body))


def test_sizes_that_ask_for_all_memory_are_refused_before_any_is_taken(codec):
    (file,) = codec.compress(tiny.images(1)[..., :8, :10])
    found = Compressed.read(file)
    assert found.method == 0
    for width, height in ((LARGEST, LARGEST), (MOST // 129 + 1, 129), (129, LARGEST)):
        with pytest.raises(ValueError, match=f"{width}x{height} pixels"):
            bytes(replace(found, width=width, height=height))
        sides = container._number(width) + container._number(height)
        with pytest.raises(DamagedError, match=f"of {width}x{height} pixels"):
            codec.read(mended(file[:10] + sides + file[12:-4]))
    assert codec.read(bytes(replace(found, width=2**14, height=2**14))).width == 2**14


def test_bug_a_size_that_the_transformer_does_not_code_was_no_damage(codec):
    """It was a mistake of whoever called, and ended all of `decompress`."""
    (file,) = codec.compress(tiny.images(1)[..., :8, :8])
    assert Compressed.read(file).method == 1
    with pytest.raises(DamagedError, match="of 10x8 pixels, which its own model does not code"):
        codec.read(mended(file[:10] + b"\x0a" + file[11:-4]))


def test_methods_that_are_none_are_another_models(codec):
    for own in (codec, coded.continuous()):
        (file,) = own.compress(tiny.images(1)[..., :8, :8])
        for method in (2, 127, 255):
            with pytest.raises(OtherModelError):
                own.read(mended(file[:3] + bytes([method]) + file[4:-4]))
