"""What recipes of generators share."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from calotype.training import Run


@runtime_checkable
class CachedRecipe(Protocol):
    """What they have in common; a dataclass."""

    @property
    def tokenizer(self) -> str:
        """The tokenizer that encoded the cache."""
        ...

    @property
    def cache(self) -> Path:
        """Folder of the cache."""
        ...

    @property
    def prompts(self) -> tuple[str, ...]:
        """Of the pictures in samples/."""
        ...

    @property
    def sampling(self) -> Any:
        """How those are drawn."""
        ...

    @property
    def held_out(self) -> int:
        """Samples of the cache that are not trained on."""
        ...

    @property
    def run(self) -> Run:
        """Of the training."""
        ...


def check_drop(drop: float) -> None:
    """Refuse what is no fraction of prompts.

    Raises:
        ValueError: it is not in [0, 1).
    """
    if not 0 <= drop < 1:
        raise ValueError(f"drop is {drop}: it is the fraction of prompts left out, below 1")
