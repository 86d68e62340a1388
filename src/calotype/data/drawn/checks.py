"""What specs of drawn pictures refuse."""

from collections.abc import Sequence


def check_names(field: str, names: Sequence[str], known: Sequence[str] | dict) -> None:
    """Refuse what is not among the known names, named twice, or nothing.

    Raises:
        ValueError: it is.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"data.{field}: {name!r} is not known; choose from {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"data.{field}: name each at most once and at least one of {', '.join(known)}"
        )


def check_at_least(field: str, value: int, least: int) -> None:
    """Refuse what is less.

    Raises:
        ValueError: it is.
    """
    if value < least:
        raise ValueError(f"data.{field}: {value} is not possible; choose {least} or more")
