"""What training takes, found without taking it: one step on tensors that have no memory."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from calotype.training import Batch, Objective, Run
from calotype.training.division import Division

ATEN = torch.ops.aten
FLOPS = {
    **flop_registry,
    # What torch's registry does not know by its name on a CPU.
    ATEN._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}
CONVOLUTIONS = {ATEN.convolution, ATEN.convolution_backward}
ALLOCATOR = 1.4
"""Times what a step holds, because allocators keep more: resident memory of the small recipes on a
CPU grew by 1.2 to 2.0 times as much."""


@dataclass(frozen=True)
class Rehearsal:
    """What a step is taken of: nothing of it has any contents."""

    objectives: Sequence[Objective]
    batch: Batch
    """One micro-batch."""
    beside: Sequence[nn.Module] = ()
    """Networks that are held and not trained, which no objective knows."""


@dataclass(frozen=True)
class Needs:
    """What training takes on one device; memory in bytes, work of one micro-batch."""

    parameters: int
    """Numbers that are trained, of all learners."""
    state: int
    """Held from step to step: weights, AdamW's moments and the average in float32, and what is
    held and not trained."""
    step: int
    """Held besides at the height of a step: gradients, activations, and what operations need for
    themselves."""
    gradients: int
    """Of these, what does not grow with the batch."""
    micro_batch: int
    """Samples of a micro-batch."""
    convolution_flops: int
    """Forward and back."""
    product_flops: int
    """Of matrix products, attention's too; forward and back."""
    moved: int
    """Bytes that all other operations read and write."""
    operations: int
    """Calls, each of which has a price of its own."""

    @property
    def memory(self) -> int:
        """Bytes in all, without the program itself."""
        return self.state + int(ALLOCATOR * self.step)

    def largest_batch(self, memory: int) -> int:
        """Samples of a micro-batch with which it would fit into so many bytes; 0: none does."""
        each = ALLOCATOR * (self.step - self.gradients) / self.micro_batch
        left = memory - self.state - ALLOCATOR * self.gradients
        return max(0, int(left / max(each, 1)))


def rehearse(build: Callable[[], Rehearsal], run: Run, dtype: torch.dtype) -> Needs:
    """Take the last step of a run, with all learners, as `fit` does: on tensors with shapes and
    without contents, so that networks of any size take about a second and next to no memory.

    Args:
        build: Makes what is trained; called where every new tensor is without contents.
        run: The run.
        dtype: Of autocast, or float32: none.
    """
    with FakeTensorMode():
        made = build()
        with _Held() as held:
            for objective in made.objectives:
                _backward(objective.train(), made.batch, run.steps - 1, dtype)
        learnt = {p for o in made.objectives for p in o.parameters() if p.requires_grad}
        first = [p for p in made.objectives[0].parameters() if p.requires_grad]
        average = _size(first) if run.ema is not None else 0
        gradients = _size(learnt)
        # The average's step holds all its differences at once, when activations are gone.
        step = max(held.most, gradients + average)
        weights = _size(_tensors([*made.objectives, *made.beside]))
    return Needs(
        parameters=sum(p.numel() for p in learnt), state=weights + 2 * gradients + average,
        step=step, gradients=gradients, micro_batch=Division.of(run, 1).micro_batch,
        convolution_flops=held.convolved, product_flops=held.multiplied, moved=held.moved,
        operations=held.operations,
    )  # fmt: skip


def _backward(objective: Objective, batch: Batch, step: int, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = objective(batch, step)
    if losses:
        torch.stack(list(losses.values())).sum().backward()


def _tensors(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes, each storage once."""
    return sum({s._cdata: s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


class _Held(TorchDispatchMode):
    """Counts the bytes of storages that came to be and are not gone, and the work of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.convolved = self.multiplied = self.moved = self.operations = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Nothing is drawn, and some operations without contents refuse to be told what from.
        kwargs = {k: None if k == "generator" else v for k, v in (kwargs or {}).items()}
        out = func(*args, **kwargs)
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        new = [t for t in made if self._is_new(t.untyped_storage())]
        if new or func._schema.is_mutable:  # views do nothing
            self.operations += 1
            self._count(func.overloadpacket, args, kwargs, out, new)
        return out

    def _count(self, name: Any, args: Any, kwargs: Any, out: Any, new: Sequence[Tensor]) -> None:
        if count := FLOPS.get(name):
            flops = count(*args, **kwargs, out_val=out)
            if name in CONVOLUTIONS:
                self.convolved += flops
            else:
                self.multiplied += flops
        else:
            read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.moved += sum(t.numel() * t.element_size() for t in [*read, *new])

    def _is_new(self, storage: torch.UntypedStorage) -> bool:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return False
        self.alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)
        return True

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size
