"""Lists of texts as arrays, so that any of them is read from a file without the others."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

ERRORS = "surrogatepass"
"""Of texts in UTF-8: a file's name may be no valid one."""


def as_arrays(name: str, texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts as `{name: uint8 [bytes], name_ends: int64 [texts]}`: text i ends at byte ends[i]."""
    parts = [text.encode(errors=ERRORS) for text in texts]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    joined = np.frombuffer(b"".join(parts), np.uint8).copy()
    return {name: torch.from_numpy(joined), f"{name}_ends": torch.from_numpy(ends)}


def from_arrays(
    arrays: Mapping[str, Tensor], name: str, first: int = 0, last: int | None = None
) -> list[str]:
    """The texts from `first` on that come before `last`; None: to the end."""
    ends = arrays[f"{name}_ends"]
    last = len(ends) if last is None else last
    if last <= first:
        return []
    bounds = [int(ends[first - 1]) if first else 0, *ends[first:last].tolist()]
    text = arrays[name][bounds[0] : bounds[-1]].numpy().tobytes()
    cuts = [bound - bounds[0] for bound in bounds]
    return [text[a:b].decode(errors=ERRORS) for a, b in pairwise(cuts)]
