"""How parameters move."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from calotype.training.schedules import half_cosine


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019) and its learning-rate schedule.

    Raises:
        ValueError: a number is not possible.
    """

    lr: float = 1e-4
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    eps: float = 1e-8
    warmup: int = 0
    """Optimiser steps over which the rate rises linearly, from lr / warmup to lr."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: hold, or fall along half a cosine that would reach its end one step after
    the run's last, as transformers' and diffusers' do."""
    min_lr_factor: float = 0.0
    """Where the cosine ends, as a fraction of lr."""
    cosine_steps: int | None = None
    """Optimiser steps over which the cosine falls, after which it holds; None: the run's, from the
    warm-up on."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"optimizer.{name} is {value}: it must be positive")
        for name in ("weight_decay", "warmup"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"optimizer.{name} is {value}: it must be 0 or more")
        if not 0 <= self.min_lr_factor <= 1:
            raise ValueError(
                f"optimizer.min_lr_factor is {self.min_lr_factor}: it must lie in [0, 1]"
            )
        self._check_cosine()
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas is {self.betas}: each must lie in [0, 1)")

    def build(
        self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]
    ) -> torch.optim.AdamW:
        """Make the optimiser, of parameters or of groups of them, as torch takes both."""
        return torch.optim.AdamW(
            parameters, self.lr, self.betas, self.eps, self.weight_decay, fused=True
        )

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of optimiser step `step` (from 0) of `steps`; a pure function, so that
        there is no scheduler whose state a checkpoint could miss.
        """
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        falls = self.cosine_steps or max(1, steps - self.warmup)
        done = (step - self.warmup) / falls
        return half_cosine(self.lr, self.min_lr_factor * self.lr, done)

    def _check_cosine(self) -> None:
        if self.cosine_steps is None:
            return
        if self.cosine_steps < 1:
            raise ValueError(f"optimizer.cosine_steps is {self.cosine_steps}: it must be positive")
        if self.schedule != "cosine":
            raise ValueError(
                f"optimizer.cosine_steps is {self.cosine_steps}, and optimizer.schedule is "
                f"{self.schedule}: choose cosine, or None"
            )
