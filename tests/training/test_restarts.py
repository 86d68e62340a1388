"""What restarts, restarts whole: moments and the count of steps."""

import pytest
import torch
from torch import nn

from calotype.training.checkpoint import load_optimizer, optimizer_tensors
from calotype.training.restarts import COUNT, restart, step

BETAS = (0.9, 0.9997)
"""With which the first step after a restart would be 5.8 times the learning rate."""
SETTINGS = {"lr": 1e-2, "betas": BETAS, "weight_decay": 0.1, "fused": True}
BEGAN, ENDED = 40, 60


def gradient(number: int) -> torch.Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(number))


def moved(parameter: nn.Parameter, optimizer: torch.optim.AdamW, numbers: range) -> None:
    for number in numbers:
        parameter.grad = gradient(number)[: len(parameter)].clone()
        step(optimizer)


@pytest.mark.parametrize("again", [False, True])
def test_bug_restarted_rows_took_five_times_the_learning_rate(again, tmp_path):
    """Adam counted their steps from the run's beginning, their moments from the restart. They move
    as rows that begin there, and others as if nothing had been; a checkpoint between changes
    nothing.
    """
    parameter, whole = nn.Parameter(torch.ones(3, 5)), nn.Parameter(torch.ones(3, 5))
    optimizer = torch.optim.AdamW([parameter], **SETTINGS)
    moved(parameter, optimizer, range(BEGAN))
    with torch.no_grad():
        parameter[1] = 7.0
    restart(optimizer, [(parameter, torch.tensor([False, True, False]))])
    if again:
        kept = optimizer_tensors(optimizer, [parameter])
        optimizer = torch.optim.AdamW([parameter], **SETTINGS)
        copies = {name: value.clone() for name, value in kept.items()}
        load_optimizer(optimizer, [parameter], copies)
    young = nn.Parameter(torch.full((3, 5), 7.0))
    fresh = torch.optim.AdamW([young], **SETTINGS)
    before = parameter.detach().clone()
    moved(parameter, optimizer, range(BEGAN, BEGAN + 1))
    moved(young, fresh, range(BEGAN, BEGAN + 1))
    # AdamW's first step is the learning rate, whatever the gradient, and the decay.
    assert (parameter[1] - before[1]).abs().max() < 1.01 * (1e-2 + 7e-3)
    moved(parameter, optimizer, range(BEGAN + 1, ENDED))
    moved(young, fresh, range(BEGAN + 1, ENDED))
    torch.testing.assert_close(parameter[1], young[1], rtol=1e-5, atol=1e-6)
    plain = torch.optim.AdamW([whole], **SETTINGS)
    moved(whole, plain, range(ENDED))
    assert torch.equal(parameter[[0, 2]], whole[[0, 2]])


def test_rows_may_restart_again():
    parameter = nn.Parameter(torch.zeros(3, 5))
    optimizer = torch.optim.AdamW([parameter], **SETTINGS)
    moved(parameter, optimizer, range(3))
    restart(optimizer, [(parameter, torch.tensor([True, False, True]))])
    moved(parameter, optimizer, range(3, 5))
    restart(optimizer, [(parameter, torch.tensor([False, False, True]))])
    moved(parameter, optimizer, range(5, 6))
    assert optimizer.state[parameter][COUNT].tolist() == [3, 6, 1]


def test_what_never_restarts_has_no_counts():
    parameter = nn.Parameter(torch.zeros(3, 5))
    optimizer = torch.optim.AdamW([parameter], **SETTINGS)
    moved(parameter, optimizer, range(2))
    restart(optimizer, [])
    restart(optimizer, [(nn.Parameter(torch.zeros(2, 2)), torch.tensor([True, False]))])  # nobody's
    assert set(optimizer.state[parameter]) == {"step", "exp_avg", "exp_avg_sq"}
