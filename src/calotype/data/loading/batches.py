"""Samples into batches, and the key of each sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from calotype.training.memory import stacked
from calotype.training.objective import Batch


def draw_keys(seed: int, start: int, count: int) -> list[int]:
    """Keys of the ordinals [start, start + count) of a run: 63-bit hashes of (seed, ordinal).

    The key of ordinal j is output j of a counter-based generator (Salmon et al. 2011), so that
    any is had without those before it.
    """
    philox = np.random.Philox(np.random.SeedSequence(seed))
    philox.advance(start // 4)  # a step of the counter makes four outputs
    outputs = philox.random_raw(start % 4 + count)[start % 4 :]
    return (outputs >> np.uint64(1)).tolist()


def keys_of(rows: Sequence[int]) -> list[int]:
    """Key i of seed 0 for row i."""
    if isinstance(rows, range):
        return draw_keys(0, rows.start, len(rows))
    return [draw_keys(0, row, 1)[0] for row in rows]


def epoch_seed(seed: int, *epoch: int) -> int:
    """Seed of an epoch's order, or of one part's, which has a number too, apart from those of the
    keys and of all others.
    """
    return int(np.random.SeedSequence(seed, spawn_key=epoch).generate_state(1, np.uint64)[0])


def collate(samples: Sequence[dict[str, Any]], keys: list[int]) -> Batch:
    """Stack tensors, list all else, and add the keys.

    Raises:
        ValueError: tensors of different shapes or types.
    """
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {**{name: _stack(name, values) for name, values in columns.items()}, "key": keys}


def present(
    samples: Sequence[dict[str, Any] | None], keys: Sequence[int], rows: Sequence[int]
) -> Batch:
    """The batch of those samples that are there, with their keys and, as "row", what they are in
    their source; of none an empty one.
    """
    kept = [each for each in zip(samples, keys, rows, strict=True) if each[0] is not None]
    if not kept:
        return {}
    found, its_keys, its_rows = map(list, zip(*kept, strict=True))
    return {**collate(found, its_keys), "row": its_rows}


def _stack(name: str, values: list[Any]) -> Tensor | list[Any]:
    if not isinstance(values[0], Tensor):
        return values
    if len(shapes := {tuple(value.shape) for value in values}) > 1:
        different = ", ".join(map(str, sorted(shapes)[:3]))
        raise ValueError(
            f"{name}: different shapes in one batch ({different}); give the Loader a transform "
            "that crops to one size, as Transform(CenterCrop(256))"
        )
    if len(kinds := {str(value.dtype) for value in values}) > 1:
        raise ValueError(f"{name}: {' and '.join(sorted(kinds))} in one batch; give it one type")
    if get_worker_info() is not None:
        return default_collate(values)  # straight into the memory that is shared with training
    return stacked(values)
