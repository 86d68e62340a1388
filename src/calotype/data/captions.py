"""What counts as a caption."""

from typing import Any


def caption_of(value: Any) -> str:
    """Make a caption of a column's value: of a list its first entry, of nothing the empty one.

    Raises:
        UnicodeDecodeError: it is bytes, and not UTF-8.
    """
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    return "" if value is None else str(value)
