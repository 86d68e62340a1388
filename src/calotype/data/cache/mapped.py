"""Safetensors files mapped into memory, of which rows are read at random."""

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def mapped(file: Path) -> dict[str, Tensor]:
    """What a file holds; of what is read of it no more is read ahead, which on some disks would be
    megabytes for each row.
    """
    with safe_open(file, "pt") as stored:
        found = {name: stored.get_tensor(name) for name in stored.keys()}
    for tensor in found.values():
        _advise(tensor, mmap.MADV_RANDOM)
    return found


def ask_for(rows: Iterable[Tensor]) -> None:
    """Let mapped rows be read from the disk all at once, before the first is waited for."""
    for row in rows:
        _advise(row, mmap.MADV_WILLNEED)


def _advise(tensor: Tensor, advice: int) -> None:
    address = tensor.data_ptr()
    first = address - address % mmap.PAGESIZE
    _madvise(first, address - first + tensor.nbytes, advice)  # what it does not heed does no harm
