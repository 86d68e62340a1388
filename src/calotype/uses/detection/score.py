"""The contract of all scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from calotype.uses.detection.encoded import Encoded

Looked = Float[Tensor, "_ _ _ _"]
"""What a score reads off pictures, on a grid of its own."""


class Score(ABC):
    """How unusual each part of a picture is. What it reads off pictures is gathered once, of all
    scores in one pass; then it learns what is usual, if it has to, and judges.
    """

    unit: str = "no unit"
    """Of what `judge` gives."""
    learns: ClassVar[bool] = True
    """Whether what is usual is learnt from the normal pictures. Where it is not, others may be the
    normal ones and scores stay: by the same tokenizer the AUROC of the reverse is 1 - AUROC, but
    for the half of the pictures that is left out, and says nothing."""

    @abstractmethod
    def look(self, pictures: Encoded) -> Looked:
        """Read off a batch what `learn` and `judge` take."""

    @abstractmethod
    def learn(self, normal: Looked) -> None:
        """Look at all normal pictures at once."""

    @abstractmethod
    def judge(self, looked: Looked) -> Float[Tensor, "n h w"]:
        """Say how unusual each site is: the higher, the more."""


class Read(Score):
    """A score that is what is read off: the tokenizer alone says what is usual."""

    learns = False

    def learn(self, normal: Looked) -> None:
        """Learn nothing."""

    def judge(self, looked: Looked) -> Float[Tensor, "n h w"]:
        """Leave it as it is."""
        return looked[:, 0]


def learning(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Those that learn what is usual: what the reverse can be asked of by the same tokenizer."""
    return {name: score for name, score in scores.items() if score.learns}
