"""The file of a compressed picture: a head that names what decodes it, symbols, and a checksum.

| bytes | what |
|---|---|
| 2 | `MAGIC` |
| 1 | version of this format |
| 1 | method: which entropy model, and of quantised latents the step |
| 6 | fingerprint of the tokenizer's latents with the entropy model |
| 1 to 3 each | width and height in pixels, seven bits a byte, the lowest first |
| any | symbols, as the range coder gives them |
| 2 | checksum of the symbols themselves (CRC-CCITT), which a wrong decoding would not have |
| 4 | checksum of all before (CRC-32, as in PNG), the highest byte first |
"""

import binascii
import zlib
from dataclasses import dataclass

MAGIC = b"\xca\x10"
VERSION = 1
SUFFIX = ".calo"
LARGEST = 2**21 - 1
"""Pixels a side."""
MOST = 2**28
"""Pixels of a picture, more than Pillow opens: no head, however damaged, asks for more memory."""
_NAME, _SIDE, _CONTENTS, _SUM = 6, 3, 2, 4


class DamagedError(ValueError):
    """A file that is not what was written."""


class OtherModelError(ValueError):
    """A file that another model compressed."""


@dataclass(frozen=True)
class Compressed:
    """What a file holds."""

    method: int
    """Which entropy model, in 8 bits."""
    name: str
    """Fingerprint of what decodes it, in 12 hexadecimal digits."""
    width: int
    height: int
    """Pixels of the picture."""
    data: bytes
    """Symbols, as the range coder gives them."""
    contents: int
    """Checksum of the symbols."""

    def __bytes__(self) -> bytes:
        """As a file has it."""
        check_size(self.width, self.height)
        head = MAGIC + bytes([VERSION, self.method]) + bytes.fromhex(self.name)
        sides = _number(self.width) + _number(self.height)
        body = head + sides + self.data + self.contents.to_bytes(_CONTENTS, "big")
        return body + zlib.crc32(body).to_bytes(_SUM, "big")

    @classmethod
    def read(cls, file: bytes) -> "Compressed":
        """Take a file apart.

        Raises:
            DamagedError: it is none, of a newer calotype, or not what was written.
        """
        if not file.startswith(MAGIC):
            raise DamagedError("no picture that calotype compressed")
        body, own = file[:-_SUM], file[-_SUM:]
        if len(file) < 18 or zlib.crc32(body).to_bytes(_SUM, "big") != own:
            raise DamagedError("damaged: its checksum is another one")
        if body[2] != VERSION:
            raise DamagedError(f"of format {body[2]}, and this calotype reads {VERSION}")
        body, contents = body[:-_CONTENTS], int.from_bytes(body[-_CONTENTS:], "big")
        width, at = _numbered(body, 4 + _NAME)
        height, at = _numbered(body, at)
        if width * height > MOST:
            raise DamagedError(f"of {width}x{height} pixels, and at most {MOST} are read")
        return cls(body[3], body[4 : 4 + _NAME].hex(), width, height, body[at:], contents)


def checksum(symbols: bytes) -> int:
    """Of 16 bits."""
    return binascii.crc_hqx(symbols, 0)


def check_size(width: int, height: int) -> None:
    """Refuse pictures of so many pixels that no file says them.

    Raises:
        ValueError: they are.
    """
    if not (0 < width <= LARGEST and 0 < height <= LARGEST and width * height <= MOST):
        raise ValueError(
            f"a picture of {width}x{height} pixels: at most {LARGEST} pixels a side, and {MOST} in "
            "all, can be written"
        )


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _numbered(body: bytes, at: int) -> tuple[int, int]:
    """A number of at least 1, and where what follows begins.

    Raises:
        DamagedError: there is none, or not as `_number` writes it.
    """
    value = 0
    for place, byte in enumerate(body[at : at + _SIDE]):
        value |= (byte & 127) << 7 * place
        if 0 < byte < 128:
            return value, at + place + 1
        if byte == 0:
            break
    raise DamagedError("damaged: it says no size")
