"""What counts as a caption, how texts are read, and which of several is taken."""

import codecs
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import numpy as np

CaptionChoice = Literal["first", "random"]
"""Of several captions of a picture: the first, or a random one, another each epoch."""
Uncaptioned = Literal["refuse", "skip", "empty"]
"""What becomes of pictures without a caption where others have one: they are refused, they are
passed over, or their caption is empty. A folder refuses them if nothing else is said: it is looked
through before anything begins. Tars do not: of those that are compressed or far the one missing
caption would be met hours into a run.
"""

HALF = re.compile("[\ud800-\udfff]")
"""Halves of characters that UTF-16 writes in two; nothing can encode one alone."""
CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f]")
"""Characters that no reader sees, but for blanks and ends of lines."""
MARKED = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
          codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
"""Encodings by the mark that a text begins with, the longer marks first; others are UTF-8."""


def caption_of(value: Any, where: str) -> str:
    """Make a caption of a value: of several its first text, of nothing the empty one.

    Args:
        value: As of `captions_of`.
        where: What errors call it: a file and line, say.

    Raises:
        ValueError: it is no text, or is broken.
    """
    found = captions_of(value, where)
    return found[0] if found else ""


def captions_of(value: Any, where: str) -> tuple[str, ...]:
    """Make captions of a value; of nothing, none.

    Control characters are left out, but those of Windows-1252 become what they were written for;
    halves of a character that stand beside each other become it.

    Args:
        value: A text, bytes as of `decoded`, a number, or a list of texts; None, NaN and what
            pandas writes for them are nothing.
        where: What errors call it: a file and line, say.

    Raises:
        ValueError: it is another thing, in another encoding, or has half a character.
    """
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return () if _is_missing(value) else (_text(value, where),)
    texts = [each for each in value if not _is_missing(each)]
    if not all(isinstance(each, str | bytes) for each in texts):
        raise _no_text(value, where)
    return tuple(_text(each, where) for each in texts)


def first_and_all(texts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """A picture's texts as a record has them: the first or "", and all where there are several."""
    return texts[0] if texts else "", texts if len(texts) > 1 else ()


def normal(name: str) -> str:
    """The form in which names are compared: what looks the same is the same (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def read_text(file: Path) -> str:
    """Read a text, encoded as of `decoded`.

    Raises:
        ValueError: it is in no such encoding; the message names the file and the line.
    """
    return decoded(file.read_bytes(), str(file))


def decoded(data: bytes, where: str) -> str:
    """A text in UTF-8, or in UTF-16 or UTF-32 if it begins with their mark.

    Raises:
        ValueError: it is in no such encoding; the message names the line, if there are several.
    """
    encoding = _encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        place = f"{where} line {line}" if line > 1 or b"\n" in data else where
        raise _not_encoded(place, encoding) from None


def lines_of(file: Path) -> Iterator[str]:
    """Read a text line by line, with their ends; encoded as of `read_text`.

    Raises:
        ValueError: it is in no such encoding; the message names the file and the line.
    """
    with file.open("rb") as data:
        if _encoding(data.read(4)) != "utf-8-sig":  # a line's end is no single byte
            yield from StringIO(read_text(file), newline="")
            return
        data.seek(0)
        for number, line in enumerate(data, start=1):
            try:
                yield line.decode("utf-8" if number > 1 else "utf-8-sig")
            except UnicodeDecodeError:
                raise _not_encoded(f"{file} line {number}", "utf-8-sig") from None


def _encoding(data: bytes) -> str:
    return next((name for mark, name in MARKED.items() if data.startswith(mark)), "utf-8-sig")


def _not_encoded(where: str, encoding: str) -> ValueError:
    name = encoding.removesuffix("-sig").upper()
    mend = "save it in that encoding" if name == "UTF-8" else f"its first bytes say {name}"
    return ValueError(f"{where}: not {name}; {mend}")


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _text(value: Any, where: str) -> str:
    if isinstance(value, bytes):  # a file's, whose lines may end as on Windows
        value = decoded(value, where).replace("\r\n", "\n")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of numbers of which some are missing
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        raise _no_text(value, where)
    return CONTROLS.sub(_meant, _whole(value, where))


def _no_text(value: Any, where: str) -> ValueError:
    said = shorten(ascii(value), 60, placeholder=" ...")
    return ValueError(f"{where}: the caption is {said}, not a text; write the text itself")


def _whole(text: str, where: str) -> str:
    """Join the halves of characters.

    Raises:
        ValueError: one stands alone.
    """
    if not HALF.search(text):
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        seen = shorten(ascii(text), 60, placeholder=" ...")
        raise ValueError(
            f"{where}: the caption {seen} has half a character; write it whole or leave it out"
        ) from None


def _meant(control: re.Match[str]) -> str:
    code = ord(control[0])
    return bytes([code]).decode("cp1252", "ignore") if code >= 0x80 else ""


def one_caption(
    example: Mapping[str, Any], choice: CaptionChoice, rng: np.random.Generator
) -> dict[str, Any]:
    """Choose the caption of an example that may have several, `captions`; these are left out.

    Args:
        example: As a source gives it.
        choice: Which.
        rng: The sample's. It is not moved: what else is drawn of it depends on no caption.
    """
    said = dict(example)
    captions = said.pop("captions", None)
    if captions and choice == "random":
        said["caption"] = captions[int(rng.spawn(1)[0].integers(len(captions)))]
    return said
