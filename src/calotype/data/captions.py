"""What counts as a caption, and which of several is taken."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

CaptionChoice = Literal["first", "random"]
"""Of several captions of a picture: the first, or a random one, another each epoch."""


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
