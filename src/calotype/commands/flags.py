"""What flags of several commands must be."""

from typing import Any


def check_counts(options: Any, *names: str) -> None:
    """Refuse numbers of things that are none; None, where nothing is said, passes.

    Raises:
        ValueError: one is below 1.
    """
    for name in names:
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be at least 1")
