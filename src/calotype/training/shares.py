"""An objective's weights in shares, one for each process: torch's FSDP2 (Zhao et al. 2023, "PyTorch
FSDP: experiences on scaling fully sharded data parallel").

Blocks of networks, and all else together, are gathered when they are computed with and given up
behind. A module that is read otherwise than by calling it is therefore in no block: it belongs to
the rest, which is at hand for as long as the objective is called.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from calotype.lazy import transformers
from calotype.training.objective import Objective

BLOCKS = frozenset({
    "ResnetBlock2D", "BasicTransformerBlock", "Attention", "Downsample2D", "Upsample2D",
    "AutoencoderTinyBlock",
})  # fmt: skip
"""diffusers' classes that networks are made of; transformers' models name theirs themselves."""


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of an objective's networks in which something is learnt, none within another."""
    yield from _blocks(module, BLOCKS)


def _blocks(module: nn.Module, kinds: frozenset[str]) -> Iterator[nn.Module]:
    if isinstance(module, transformers.PreTrainedModel):
        kinds |= set(module._no_split_modules or ())
    for child in module.children():
        if type(child).__name__ not in kinds:
            yield from _blocks(child, kinds)
        elif any(p.requires_grad for p in child.parameters()):
            yield child


class _Unit:
    """A module whose parameters are gathered together."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.before = [set(hooks) for hooks in self._hooks]

    @property
    def _hooks(self) -> tuple[dict, dict]:
        return self.module._forward_pre_hooks, self.module._forward_hooks

    def gather(self) -> None:
        """Have its parameters at hand."""
        assert isinstance(self.module, FSDPModule)
        self.module.unshard()

    def part(self) -> None:
        """Give up what was gathered."""
        assert isinstance(self.module, FSDPModule)
        self.module.reshard()

    def undo(self) -> None:
        """Make an ordinary module of it again, for which torch has no call."""
        self.part()
        self.module.__class__ = self.kind
        for hooks, before in zip(self._hooks, self.before, strict=True):
            for added in hooks.keys() - before:
                del hooks[added]


class Shares:
    """An objective of which each process holds its share: of what is learnt, but for the modules
    that the objective keeps whole. What is frozen is whole too.

    Args:
        objective: With weights that may differ between processes: the main one's count, as in DDP.
        mesh: Of all processes.
        device: Where this one trains.
        free: Whether blocks are given up behind the forward pass, too, and gathered once more.
    """

    def __init__(
        self, objective: Objective, mesh: DeviceMesh, device: torch.device, free: bool
    ) -> None:
        self.objective = objective
        kept = {p for module in objective.kept_whole for p in module.parameters()}
        whole = kept | {p for p in objective.parameters() if not p.requires_grad}
        self._broadcast(device)
        for parameter in whole:
            parameter.data = parameter.data.to(device)
        self.units = [_Unit(module) for module in [*blocks(objective), objective]]
        for unit in self.units:
            again = None if unit.module is objective else free  # None: going back all need it
            fully_shard(unit.module, mesh=mesh, ignored_params=whole, reshard_after_forward=again)
        self._call_nothing()

    def _broadcast(self, device: torch.device) -> None:
        for tensor in [*self.objective.parameters(), *self.objective.buffers()]:
            sent = tensor.detach().to(device)
            dist.broadcast(sent, 0)
            tensor.data.copy_(sent)

    def _call_nothing(self) -> None:
        """Whoever is called first is the root, for FSDP: later a network may be, by itself."""
        self.objective.forward = lambda: {}  # type: ignore[method-assign]
        self.objective()
        del self.objective.forward
        self.part()

    def gather(self) -> None:
        """Have all but the blocks at hand; these see to themselves."""
        self.units[-1].gather()

    def gather_all(self) -> None:
        """Have blocks at hand too."""
        for unit in self.units:
            unit.gather()

    def part(self) -> None:
        """Give up all that is gathered."""
        for unit in self.units:
            unit.part()

    @torch.no_grad()
    def leave(self) -> None:
        """Make an ordinary module of it again, with whole weights: on all processes if the
        objective is measured by all, else on the main one, in the memory of the CPU. One tensor
        after another, so that there is no second copy; the others' weights have no contents.
        """
        for unit in self.units:
            unit.undo()
        whole: dict[nn.Parameter, nn.Parameter] = {}
        for module in self.objective.modules():
            for name, own in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
                if isinstance(own, DTensor):
                    if own not in whole:
                        whole[own] = nn.Parameter(self._whole(own), own.requires_grad)
                    setattr(module, name, whole[own])

    def _whole(self, own: DTensor) -> torch.Tensor:
        full = own.full_tensor()
        if self.objective.measured_by_all:
            return full
        return full.cpu() if dist.get_rank() == 0 else torch.empty(full.shape, device="meta")
