"""How the processes of a run hold its weights: each all of them, or each a share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import accelerate
from calotype.training.checkpoint import Found, Tensors
from calotype.training.objective import Objective

Groups = Mapping[str, Tensors]
"""A run's tensors by group, as a checkpoint keeps them: `model-0`, `optimizer-0`, `ema`, ..."""


class Prepared(NamedTuple):
    """An objective that is ready to be trained."""

    module: nn.Module
    """What is called instead of it."""
    optimizer: torch.optim.Optimizer
    learnt: list[nn.Parameter]
    """What moves, as the optimiser knows it, in the objective's order."""


class Weights(ABC):
    """How weights, their gradients and the optimiser's state are held, moved, seen and saved."""

    seen_by_each = True
    """Whether each process may look at networks by itself, and stop; else all look together."""

    def __init__(self, accelerator: "accelerate.Accelerator") -> None:
        self.accelerator = accelerator

    @property
    @abstractmethod
    def writes(self) -> bool:
        """Whether this process has a part in writing a checkpoint."""

    @abstractmethod
    def prepare(self, objective: Objective) -> Prepared:
        """Hold an objective's weights so from now on."""

    @abstractmethod
    def accumulating(self, module: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Of a micro-batch's backward pass; whether it is an optimiser step's last."""

    @abstractmethod
    def norm(self, learnt: Sequence[nn.Parameter], limit: float) -> Float[Tensor, ""]:
        """Clip the whole gradient; returns its norm before, the same on every process."""

    @abstractmethod
    def gather(self) -> None:
        """Have at hand what a micro-batch reads outside of the module that is called."""

    @abstractmethod
    def seen(self) -> AbstractContextManager[object]:
        """Within this context networks may be called otherwise than by their objective."""

    @abstractmethod
    def own(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """What this process holds of parameters, in the same memory."""

    @abstractmethod
    def parts(self, values: Tensors, parameters: Sequence[nn.Parameter]) -> Tensors:
        """What belongs to `own` parameters, by their number, as what a checkpoint keeps."""

    @abstractmethod
    def shares(self, values: Tensors, parameters: Sequence[nn.Parameter]) -> Tensors:
        """Of what a checkpoint kept, by parameters' number, what belongs to `own` ones."""

    @abstractmethod
    def like(self, value: Tensor, parameter: Tensor) -> Tensor:
        """What belongs to a parameter and was kept, as it is held here."""

    @abstractmethod
    def writing(
        self, folder: Path, groups: Groups, state: Mapping[str, Any]
    ) -> Callable[[], None]:  # fmt: skip
        """Copy what a checkpoint keeps; returns what writes the copies, beside training."""

    @abstractmethod
    def look(self, folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """On the main process: what a checkpoint holds, as far as that process reads it for all,
        and its numbers.

        Raises:
            DamagedError: it is not what was written.
        """

    @abstractmethod
    def read(self, found: Found | None, likes: Groups) -> Groups:
        """What a checkpoint holds, for all processes.

        Args:
            found: Of the main process.
            likes: What is held here, in groups of the same names; of an optimiser's its parameters,
                by their number.
        """

    @abstractmethod
    def leave(self) -> None:
        """Leave trained weights whole in their objectives, for whoever saves or measures them."""
