"""Each process holds all weights, unless the launcher asks for something else."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import accelerate
from calotype.training import checkpoint
from calotype.training.agreement import of_main
from calotype.training.checkpoint import Found, Tensors
from calotype.training.holding import Groups, Prepared, Weights
from calotype.training.launcher import asks_for_shares
from calotype.training.objective import Objective


class Whole(Weights):
    """Each process holds all; where there are several, gradients are averaged (DDP)."""

    @property
    def writes(self) -> bool:
        """The main process alone does: all hold the same."""
        return self.accelerator.is_main_process

    def prepare(self, objective: Objective) -> Prepared:
        """By Accelerate."""
        # Before prepare: afterwards the same tensors are on the device.
        learnt = [p for p in objective.parameters() if p.requires_grad]
        optimizer = objective.optimizer.build(learnt)
        module, optimizer = self.accelerator.prepare(objective, optimizer)
        return Prepared(module, optimizer, learnt)

    def accumulating(self, module: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Ranks exchange gradients only at the last one."""
        return nullcontext() if last else self.accelerator.no_sync(module)

    def norm(self, learnt: Sequence[nn.Parameter], limit: float) -> Float[Tensor, ""]:
        """Each process has the whole gradient."""
        norm = self.accelerator.clip_grad_norm_(learnt, limit)
        assert isinstance(norm, Tensor)
        return norm

    def gather(self) -> None:
        """All is at hand."""

    def seen(self) -> AbstractContextManager[object]:
        """They always may."""
        return nullcontext()

    def own(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """All of them."""
        return list(parameters)

    def parts(self, values: Tensors, parameters: Sequence[nn.Parameter]) -> Tensors:
        """They are whole."""
        return values

    def shares(self, values: Tensors, parameters: Sequence[nn.Parameter]) -> Tensors:
        """All of it."""
        return values

    def like(self, value: Tensor, parameter: Tensor) -> Tensor:
        """It is whole."""
        return value

    def writing(
        self, folder: Path, groups: Groups, state: Mapping[str, Any]
    ) -> Callable[[], None]:  # fmt: skip
        """Copies lie in the memory of the CPU."""
        copies = {
            group: {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
            for group, tensors in groups.items()
        }
        return lambda: checkpoint.write(folder, copies, state)

    def look(self, folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """All that it holds, whoever wrote it."""
        if not checkpoint.is_parted(folder):
            return checkpoint.read(folder)
        # What it is made of takes seconds to import.
        from calotype.training import parted

        return parted.whole(folder)

    def read(self, found: Found | None, likes: Groups) -> Groups:
        """The main process sends the others what it has read."""
        return of_main(lambda: found.groups if found else {})

    def leave(self) -> None:
        """They are there."""


def holding(accelerator: "accelerate.Accelerator", out: Path) -> Weights:
    """How a run's weights are held: as the launcher asks.

    Args:
        accelerator: Of the run.
        out: The run's folder.

    Raises:
        ValueError: on all processes, they are to be held in shares, and not all see the folder.
    """
    if not asks_for_shares() or accelerator.num_processes == 1:
        return Whole(accelerator)
    from calotype.training.sharded import Sharded

    return Sharded(accelerator, out)
