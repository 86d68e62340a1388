"""What a run minimises."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from calotype.training.optimizer import AdamW
from calotype.training.precision import Name

Batch = dict[str, Any]
"""Tensors with the samples along the first axis, lists of strings, and `"key"`: one integer per
sample, from which all of its noise is drawn (see `calotype.training.noise`)."""

Rows = list[tuple[nn.Parameter, Bool[Tensor, " n"]]]
"""Rows of parameters: which, along the first axis."""

Losses = dict[str, Float[Tensor, ""]]
"""Weighted scalars by name, each a mean over the batch: their sum is minimised."""


@runtime_checkable
class Batches(Protocol):
    """Where batches come from: `calotype.data.Loader`, or whatever keeps its promise."""

    def batches(
        self, position: int = 0, rank: int = 0, world: int = 1, micro_batch: int | None = None
    ) -> Iterator[Batch]:
        """Endless batches of one rank, from the sample at which all ranks together stand: of its
        equal share of a step, or of so many samples, which divide that.
        """
        ...


@runtime_checkable
class Learning(Protocol):
    """Batches that learn, as they are read, where others begin: so a resumed run need not read what
    lies before. Without it they are the same, only later.
    """

    def learnt(self) -> Int64[Tensor, " n"] | None:
        """What this rank knows, -1 where it knows nothing; None: there is nothing to know."""
        ...

    def take_up(self, learnt: Int64[Tensor, " n"]) -> None:
        """Take up what all ranks knew."""
        ...


class Objective(nn.Module, ABC):
    """A module that turns a batch into named, weighted scalars.

    The loop calls it through Accelerate's wrapper, never a method of its model, so that
    DistributedDataParallel sees every forward pass and ranks stay equal. It owns what it trains:
    its parameters that require a gradient. What it only consults (a frozen network, the other
    learner of a game) it holds in a tuple, which `parameters()` does not enter.
    """

    optimizer: AdamW
    metrics: dict[str, Tensor]
    """Detached scalars of the last forward pass that are worth logging and not minimised."""

    def __init__(self, optimizer: AdamW) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.metrics = {}
        self.evaluation: Callable[[], dict[str, float]] | None = None
        """Figures of what is not trained on, by the weights as they are; None: there are none."""
        self.captions: Sequence[str] = ()
        """Of the images of `preview`, if they have any."""
        self.scaler = GradScaler(enabled=False)
        """Of the run's losses; for objectives that differentiate within `forward`, see
        `calotype.training.precision.gradient`."""
        self.precision: Name = "fp32"
        """Of the run; `forward` is called within it, and `preview` may compute in it."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """What `run.compile` compiles: modules that do nearly all of the computing, and are called
        as such.
        """
        return ()

    measured_by_all = False
    """Whether all processes want the trained weights, where they train, or the main one alone,
    which saves them."""

    drawn_from_whole = False
    """Whether its pictures are drawn by reading weights of blocks, which are not called then."""

    @property
    def kept_whole(self) -> Sequence[nn.Module]:
        """Where processes hold weights in shares, modules of which each holds all: those that are
        read or set between steps, such as codes.
        """
        return ()

    @abstractmethod
    def forward(self, batch: Batch, step: int) -> Losses:
        """Score a batch; `step` counts finished optimiser steps. `{}`: nothing to learn yet."""

    @property
    def compares(self) -> bool:
        """Whether samples of a step are compared with one another, so that none of it can be taken
        apart from the rest.
        """
        return False

    def wants_survey(self, micro_batches: int, step: int) -> bool:
        """Whether `survey` is to see an optimiser step's micro-batches, which are so many, before
        the first `forward`. All of them must then be loaded first.
        """
        return False

    def survey(self, batches: Sequence[Batch], step: int) -> None:
        """Look at all of a rank's micro-batches of an optimiser step: here belongs what cannot be
        added up from their parts.
        """

    def stage(self, step: int) -> int:
        """How much of it is at work in a step: another number where a step may take more memory
        than those before.
        """
        return 0

    def step_end(self, step: int) -> Rows:
        """Update statistics that are not parameters, once per optimiser step, on every rank.

        Returns:
            Rows of parameters that were set anew, whose moments and averages must begin anew too.
        """
        return []

    def step_skipped(self) -> None:
        """Forget what this step has gathered: one of its terms was not finite."""

    def warning(self) -> str | None:
        """What a person should know at once, such as that codes are dying; None: nothing."""
        return None

    def preview(self) -> Float[Tensor, "n c H W"] | None:
        """Images in [-1, 1] that show how far training is; None: nothing to show."""
        return None
