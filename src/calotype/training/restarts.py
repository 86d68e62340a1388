"""Rows of parameters that are set anew, such as codes that died, begin anew with Adam too."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from calotype.training.ema import rowwise
from calotype.training.objective import Rows

COUNT = "row_steps"
"""Of a parameter's state: the updates that each of its rows has had since it was set anew."""


@torch.no_grad()
def restart(optimizer: Optimizer, rows: Rows) -> None:
    """Let the moments and the step count of rows begin anew."""
    for parameter, which in rows:
        state = optimizer.state.get(parameter, {})
        if "step" not in state:
            continue
        for value in state.values():
            if value.shape == parameter.shape:
                value.masked_fill_(rowwise(which, value), 0)
        if COUNT not in state:
            state[COUNT] = _everywhere(state["step"], parameter)
        state[COUNT].masked_fill_(which, 0)


@torch.no_grad()
def step(optimizer: Optimizer) -> None:
    """Take a step, in which each row counts its own.

    Adam divides its moments by 1 - beta^t (Kingma & Ba 2015, algorithm 1), and torch counts t once
    for a whole parameter. Moments that begin anew late in training would stay undivided, and the
    first steps of such rows be up to (1 - beta1) / sqrt(1 - beta2) times the learning rate; what
    these are too far is taken back.
    """
    optimizer.step()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state: dict[str, Tensor] = optimizer.state.get(parameter, {})
            if COUNT in state and parameter.grad is not None:
                own = state[COUNT].add_(1)
                whole = _everywhere(state["step"], parameter)
                moved, due = (_direction(parameter, state, group, count) for count in (whole, own))
                parameter.sub_(group["lr"] * (due - moved))


def _everywhere(count: Tensor, parameter: nn.Parameter) -> Tensor:
    """A count for each row; on a device nobody waits for it."""
    return count.to(parameter.device).expand(len(parameter)).clone()


def _direction(
    parameter: nn.Parameter, state: dict[str, Tensor], group: dict[str, Any], count: Tensor
) -> Tensor:
    """Where Adam moves rows of so many steps, by a learning rate of one."""
    count = rowwise(count, parameter)
    first, second = (1 - beta**count for beta in group["betas"])
    return state["exp_avg"] / first / ((state["exp_avg_sq"] / second).sqrt() + group["eps"])
