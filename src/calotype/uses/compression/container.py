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
_NAME, _CONTENTS, _SUM = 6, 2, 4


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
        at = 4 + _NAME
        width, at = _numbered(body, at)
        height, at = _numbered(body, at)
        contents = int.from_bytes(body[-_CONTENTS:], "big")
        return cls(body[3], body[4 : 4 + _NAME].hex(), width, height, body[at:-_CONTENTS], contents)


def checksum(symbols: bytes) -> int:
    """Of 16 bits."""
    return binascii.crc_hqx(symbols, 0)


def _number(value: int) -> bytes:
    if not 0 < value <= LARGEST:
        raise ValueError(f"a picture of {value} pixels a side: at most {LARGEST} can be written")
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _numbered(body: bytes, at: int) -> tuple[int, int]:
    """A number, and where what follows begins."""
    value = shift = 0
    while True:
        byte = body[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
