"""Numbers that follow the optimiser steps: pure functions, with no state to save."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The same number at every step.

    Raises:
        ValueError: it is not finite.
    """

    value: float
    """The number."""

    def __post_init__(self) -> None:
        _check_finite(self.value)

    @property
    def least(self) -> float:
        """The smallest number it gives."""
        return self.value

    def at(self, step: int) -> float:
        """The number."""
        return self.value


@dataclass(frozen=True)
class Cosine:
    """Half a cosine, and its last value ever after.

    Raises:
        ValueError: a number is not possible.
    """

    first: float
    """At step 0."""
    last: float
    """From `steps` on."""
    steps: int
    """Optimiser steps from `first` to `last`."""

    def __post_init__(self) -> None:
        _check_finite(self.first, self.last)
        if self.steps < 1:
            raise ValueError(f"a cosine of {self.steps} steps: it must be at least 1")

    @property
    def least(self) -> float:
        """The smallest number it gives."""
        return min(self.first, self.last)

    def at(self, step: int) -> float:
        """The number after `step` finished optimiser steps."""
        return half_cosine(self.first, self.last, step / self.steps)


@dataclass(frozen=True)
class Linear:
    """A straight line, and its last value ever after.

    Raises:
        ValueError: a number is not possible.
    """

    first: float
    """At step 0."""
    last: float
    """From `steps` on."""
    steps: int
    """Optimiser steps from `first` to `last`."""

    def __post_init__(self) -> None:
        _check_finite(self.first, self.last)
        if self.steps < 1:
            raise ValueError(f"a line of {self.steps} steps: it must be at least 1")

    @property
    def least(self) -> float:
        """The smallest number it gives."""
        return min(self.first, self.last)

    def at(self, step: int) -> float:
        """The number after `step` finished optimiser steps."""
        done = min(1.0, step / self.steps)
        return (1 - done) * self.first + done * self.last


Schedule = Constant | Cosine | Linear


def half_cosine(first: float, last: float, done: float) -> float:
    """From `first`, at 0 done, to `last`, at 1 done and beyond."""
    left = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    # Both ends are exact so, and what goes up from a tiny number stays positive.
    return left * first + (1 - left) * last


def _check_finite(*values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"a schedule goes through {values}: its values must be finite")
