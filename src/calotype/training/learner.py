"""One objective, its optimiser, and the step they take together."""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from calotype.lazy import accelerate
from calotype.training import restarts
from calotype.training.checkpoint import Tensors, load_optimizer, optimizer_tensors
from calotype.training.holding import Weights
from calotype.training.norms import keep_in_bf16
from calotype.training.objective import Batch, Losses, Objective, Rows
from calotype.training.precision import Name, autocast

MOST_COMPILED = 8
"""Shapes of a batch that torch compiles a piece of code for; for others it does not."""


def check_compiled(compiled: bool, shapes: int) -> None:
    """Refuse to compile networks for more shapes of images than torch does.

    Raises:
        ValueError: there are more.
    """
    if compiled and shapes > MOST_COMPILED:
        raise ValueError(
            f"run.compile: images come in {shapes} shapes, and torch compiles for "
            f"{MOST_COMPILED} at most: choose --run.no-compile, a smaller transform.crop.ratio or "
            "a larger transform.crop.lost"
        )


class _Compiled:
    """Networks that are compiled in their place: names in checkpoints stay what they are.

    Each by its own `forward`: torch counts how often a piece of code is compiled anew, `call` of
    all modules is one piece, and what is beyond eight would not be compiled at all.
    """

    def __init__(self, networks: Sequence[nn.Module], device: torch.device) -> None:
        self.networks, self.before = networks, [n.__dict__.get("forward") for n in networks]
        for network in networks:
            if device.type == "cuda":  # on CPUs it is slower (benchmarks/LOG.md)
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            # For each shape anew: inductor fails on these networks where shapes are left open.
            network.forward = torch.compile(  # type: ignore[method-assign]
                network.forward, dynamic=False
            )

    def undo(self) -> None:
        """Leave them as they were."""
        for network, was in zip(self.networks, self.before, strict=True):
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            del network.forward  # back to the class's
            if was is not None:
                network.forward = was


class Learner:
    """Accumulates an objective's gradient over micro-batches, then moves its parameters.

    Args:
        objective: What it minimises.
        accelerator: Of the run.
        weights: How they are held.
        precision: What it computes in.
        scaler: Of the losses; one for all learners, so that an overflow of one holds all back.
        mark: Ends the names of all it measures, so that objectives of one class are told apart.
        compiled: Whether its networks are compiled.
    """

    def __init__(
        self, objective: Objective, accelerator: "accelerate.Accelerator", weights: Weights,
        precision: Name, scaler: GradScaler, mark: str = "", compiled: bool = False,
    ) -> None:  # fmt: skip
        self.objective, self.accelerator, self.mark = objective, accelerator, mark
        self.kind = type(objective)  # which is another where weights are held in shares
        self.weights = weights
        self.precision: Name = precision
        objective.precision = precision
        self.scaler = objective.scaler = scaler
        keep_in_bf16(objective.modules(), precision, accelerator.device)
        self.compiled = _Compiled(objective.networks if compiled else (), accelerator.device)
        self.module, self.optimizer, self.learnt = weights.prepare(objective)
        self.played = False

    @property
    def gradient(self) -> str:
        """What the norm of its gradient is called."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.kind.__name__).lower()
        return f"{words}_gradient{self.mark}"

    def measured(self, losses: Losses) -> Losses:
        """What a forward pass gave, and measured besides, under names of this learner's own."""
        return {f"{n}{self.mark}": v for n, v in {**losses, **self.objective.metrics}.items()}

    def backward(self, batch: Batch, step: int, last: bool) -> Losses:
        """Add a micro-batch's gradient; the `last` one ends an optimiser step's."""
        with self.weights.accumulating(self.module, last):
            with autocast(self.precision, self.accelerator.device):
                found: Losses = self.module(batch, step)
            losses = {name: loss.float() for name, loss in found.items()}
            self.played = bool(losses)
            if losses:
                total = torch.stack(list(losses.values())).sum()
                self.accelerator.backward(self.scaler.scale(total))
        return losses

    def norm(self, clip: float | None) -> Float[Tensor, ""]:
        """Undo the scaling of the whole gradient and clip it; return its norm before, the same on
        every rank.
        """
        self.scaler.unscale_(self.optimizer)
        return self.weights.norm(self.learnt, float("inf") if clip is None else clip)

    def update(self, step: int, steps: int) -> Rows:
        """Move the parameters by the gradient at hand, and let statistics follow; returns the rows
        that these set anew.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.objective.optimizer.rate(step, steps)
        restarts.step(self.optimizer)
        rows = self.objective.step_end(step)
        restarts.restart(self.optimizer, rows)
        return rows

    def state(self) -> dict[str, Tensors]:
        """Learnt parameters and buffers, and the optimiser's state."""
        moments = optimizer_tensors(self.optimizer, self.learnt)
        return {"model": self._learnt_state(), "optimizer": moments}

    def likes(self) -> dict[str, Tensors]:
        """What `state` is held like here: of an optimiser, its parameters."""
        parameters = {str(i): p.detach() for i, p in enumerate(self.learnt)}
        return {"model": self._learnt_state(), "optimizer": parameters}

    def load(self, model: Tensors, optimizer: Tensors) -> None:
        """Put `state` back."""
        own = self._learnt_state()
        if missing := own.keys() ^ model.keys():
            raise ValueError(f"the checkpoint does not fit this recipe: {sorted(missing)[0]}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(self.weights.like(model[name], tensor))
            moments = {name: self.weights.like(value, self.learnt[int(name.split(".", 1)[0])])
                       for name, value in optimizer.items()}  # fmt: skip
        load_optimizer(self.optimizer, self.learnt, moments)

    def _learnt_state(self) -> Tensors:
        # Frozen parameters come from where they came from; a checkpoint holds what may move. A
        # network may know one parameter by several names (LPIPS its heads), as the state does.
        named = self.objective.named_parameters(remove_duplicate=False)
        frozen = {n for n, p in named if not p.requires_grad}
        return {n: t for n, t in self.objective.state_dict().items() if n not in frozen}
