"""What flags of several commands must be."""

from typing import Any


def check_counts(options: Any, *names: str, **least: int) -> None:
    """Refuse numbers of things that are too few; None, where nothing is said, passes.

    Args:
        options: Of a command.
        names: Fields that are at least 1.
        least: What other fields are at least.

    Raises:
        ValueError: one is less.
    """
    for name, few in {**dict.fromkeys(names, 1), **least}.items():
        if (value := getattr(options, name)) is not None and value < few:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be at least {few}")
