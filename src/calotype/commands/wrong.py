"""Files with which something is wrong, told after all others are done."""

from collections.abc import Mapping
from itertools import islice

from calotype.mistakes import note

TOLD = 20
"""Files that are named."""


def tell_wrong(wrong: Mapping[str, str], count: int, done: str) -> None:
    """Name files with which something is wrong, the first ones of many.

    Args:
        wrong: What is wrong, by file.
        count: Of how many.
        done: What they were not, such as `compressed`.

    Raises:
        ValueError: there are some.
    """
    if not wrong:
        return
    error = ValueError(f"{len(wrong)} of {count} files were not {done}:")
    first = islice(wrong.items(), TOLD)
    lines = [why if name in why else f"{name}: {why}" for name, why in first]
    lines += [f"and {len(wrong) - TOLD} more"] if len(wrong) > TOLD else []
    note(error, "\n".join(lines))
    raise error
