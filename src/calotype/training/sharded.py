"""Each process holds a share of weights, gradients, averages and the optimiser's state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate

from calotype.lazy import accelerate
from calotype.training import checkpoint, parted
from calotype.training.agreement import by_main, of_main
from calotype.training.checkpoint import Found, Tensors
from calotype.training.distributed import all_mean, all_sum, patience
from calotype.training.holding import Groups, Prepared, Weights
from calotype.training.hosts import check_shared
from calotype.training.objective import Objective
from calotype.training.shares import Shares


class Sharded(Weights):
    """By FSDP2, as `Shares` says. Few numbers are whole, such as codes, which are set anew between
    steps: each process has all of them, and their gradients are averaged.

    Args:
        accelerator: Of the run.
        out: The run's folder: all processes write their shares of checkpoints there.

    Raises:
        ValueError: on all processes, not all see it.
    """

    seen_by_each = False

    def __init__(self, accelerator: "accelerate.Accelerator", out: Path) -> None:
        super().__init__(accelerator)
        check_shared(out, "the launcher asks for FSDP, and --run.out")  # Each writes its part.
        by_main(lambda: out.mkdir(parents=True, exist_ok=True))
        asked = accelerate.FullyShardedDataParallelPlugin()
        self.free = bool(asked.reshard_after_forward)
        world = accelerator.num_processes
        self.mesh = init_device_mesh(accelerator.device.type, (world,))
        # Of its own: a checkpoint is written while training exchanges gradients.
        writers = dist.new_group(backend="gloo", timeout=patience())
        assert isinstance(writers, dist.ProcessGroup)
        self.writers = writers
        self.copies = DeviceMesh.from_group(self.writers, "cpu")
        self.held: list[Shares] = []

    @property
    def writes(self) -> bool:
        """All do."""
        return True

    def prepare(self, objective: Objective) -> Prepared:
        """Share it out; fused optimisers take shares and whole tensors apart."""
        device = self.accelerator.device
        self.held.append(Shares(objective, self.mesh, device, self.free))
        learnt = [p for p in objective.parameters() if p.requires_grad]
        apart = (_shared(learnt), _whole(learnt))
        optimizer = objective.optimizer.build([{"params": some} for some in apart if some])
        return Prepared(objective, self.accelerator.prepare_optimizer(optimizer), learnt)

    def accumulating(self, module: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Gradients are exchanged at each micro-batch: until then each process has all of them."""
        return nullcontext()

    @torch.no_grad()
    def norm(self, learnt: Sequence[nn.Parameter], limit: float) -> Float[Tensor, ""]:
        """Of all shares together; whole tensors count once, when they have been averaged."""
        for parameter in _whole(learnt):
            if parameter.grad is not None:
                parameter.grad.copy_(all_mean(parameter.grad))
        own, whole = ([_local(p.grad) for p in some if p.grad is not None]
                      for some in (_shared(learnt), _whole(learnt)))  # fmt: skip
        device = self.accelerator.device
        shared, rest = (nn.utils.get_total_norm(some).to(device) for some in (own, whole))
        norm = (all_sum(shared.square()) + rest.square()).sqrt()
        if every := [*own, *whole]:
            torch._foreach_mul_(every, (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def gather(self) -> None:
        """One objective's forward pass may read another's weights, as a tokenizer's does its
        critic's.
        """
        for shares in self.held:
            shares.gather()

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Gathered, and where an objective is drawn from whole weights the blocks too; afterwards
        given up, because the shares may be others then.
        """
        for shares in self.held:
            whole = shares.objective.drawn_from_whole
            (shares.gather_all if whole else shares.gather)()
        try:
            yield
        finally:
            for shares in self.held:
                shares.part()

    def own(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Of those that are shared this process's share."""
        return [nn.Parameter(_local(p.detach())) if isinstance(p, DTensor) else p
                for p in parameters]  # fmt: skip

    def parts(self, values: Tensors, parameters: Sequence[nn.Parameter]) -> Tensors:
        """Shares of one whole."""
        return {
            name: _of(value, p, self.mesh) if isinstance(p := parameters[int(name)], DTensor)
            else value
            for name, value in values.items()
        }  # fmt: skip

    def shares(self, values: Tensors, parameters: Sequence[nn.Parameter]) -> Tensors:
        """Those of this process."""
        return {name: _local(self.like(value, parameters[int(name)]))
                for name, value in values.items()}  # fmt: skip

    def like(self, value: Tensor, parameter: Tensor) -> Tensor:
        """Of what is whole the share of this process."""
        if not isinstance(parameter, DTensor) or isinstance(value, DTensor):
            return value
        if value.shape != parameter.shape:
            return value
        whole = DTensor.from_local(value.to(parameter.device), self.mesh, [Replicate()],
                                   run_check=False)  # fmt: skip
        return whole.redistribute(self.mesh, parameter.placements)

    def writing(
        self, folder: Path, groups: Groups, state: Mapping[str, Any]
    ) -> Callable[[], None]:  # fmt: skip
        """Each process copies and writes its share."""
        copies = {
            f"{group}/{name}": self._copied(tensor)
            for group, tensors in groups.items() for name, tensor in tensors.items()
        }  # fmt: skip
        return lambda: parted.write(folder, copies, state, self.writers)

    def _copied(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        copy = _local(tensor).to("cpu", copy=True)
        return _of(copy, tensor, self.copies) if isinstance(tensor, DTensor) else copy

    def look(self, folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Of one in parts, that it is whole; what one process wrote is read."""
        return parted.checked(folder)

    def read(self, found: Found | None, likes: Groups) -> Groups:
        """Each process reads its share, whoever wrote it; what one process wrote, as from it."""
        folder = by_main(lambda: found.folder if found else None)
        assert folder is not None
        if not checkpoint.is_parted(folder):
            return of_main(lambda: found.groups if found else {})
        return parted.read(folder, likes, self.writers)

    def leave(self) -> None:
        """As each objective wants it."""
        for shares in self.held:
            shares.leave()


def _shared(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if isinstance(p, DTensor)]


def _whole(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if not isinstance(p, DTensor)]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _of(share: Tensor, like: DTensor, mesh: DeviceMesh) -> DTensor:
    """A share of what is laid out as another whole is."""
    return DTensor.from_local(share, mesh, like.placements, run_check=False, shape=like.shape,
                              stride=like.stride())  # fmt: skip
