"""Pictures in their own shape: the buckets in which they are measured and reconstructed."""

import json
from pathlib import Path

from calotype.data import Buckets
from calotype.training.network import located

STEPS = (32, 16, 8, 4, 2)
"""Pixels that sides of whole pictures are multiples of: the most of which there are eight to the
square's side. They do not depend on the tokenizer, so that several are measured on the same."""


def whole_shapes(size: int, factor: int) -> Buckets:
    """Shapes of about the area of a square of `size` pixels a side, which a tokenizer encodes;
    several tokenizers have them in common, whatever their factor.

    Raises:
        ValueError: there are none of this size, or the tokenizer encodes none of them.
    """
    fitting = (step for step in STEPS if size % (8 * step) == 0 and step % factor == 0)
    if (step := next(fitting, None)) is None:
        raise ValueError(
            f"--whole: shapes of about {size}x{size} pixels have no sides that are multiples of "
            f"the tokenizer's factor, {factor}: choose a larger --size"
        )
    return Buckets(size, step, place="centre")


def learnt_in_buckets(tokenizer: str) -> bool:
    """Whether a tokenizer, by its folder or that of its run, was trained on pictures of several
    shapes; of one whose run is not beside it that is not known.
    """
    folder = Path(located(tokenizer, "model"))
    file = folder.parent / "recipe.json"
    if not (folder.is_dir() and file.is_file()):
        return False
    transform = json.loads(file.read_text()).get("transform") or {}
    return transform.get("crop", {}).get("type") == Buckets.__name__
