"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): draws from a density whose logarithm is
known up to a constant, by its gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

VARIED = 0.2
"""Part of its length by which a step may be longer or shorter, all of a proposal's alike."""
GAIN = 2.0
"""Of the logarithm of a step's length, by what is accepted too much, in the first proposal; it
falls with the root of their number."""
Places = Float[Tensor, "b ..."]
LogDensity = Callable[[Places], Float[Tensor, " b"]]
"""Of each place, in nats, up to a constant; with gradients."""


@dataclass(frozen=True)
class HMC:
    """How chains go on, one for each place, each with a step of its own."""

    steps: int = 100
    """Proposals."""
    leapfrog: int = 10
    """Steps of the integrator for each proposal."""
    step_size: float = 0.01
    """Length of the integrator's first step; it follows what is accepted."""
    accepted: float = 0.8
    """Part of the proposals that is to be accepted."""
    warm_up: int = 50
    """Proposals during which the step's length follows, and that count for nothing else."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "leapfrog"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--hmc.{name} is {value}: it must be at least 1")
        if not 0 <= self.warm_up < self.steps:
            raise ValueError(f"--hmc.warm-up is {self.warm_up}: it lies from 0 below --hmc.steps")
        if not self.step_size > 0:
            raise ValueError(f"--hmc.step-size is {self.step_size}: it must be above 0")
        if not 0 < self.accepted < 1:
            raise ValueError(f"--hmc.accepted is {self.accepted}: it lies between 0 and 1")


@dataclass(frozen=True)
class Chains:
    """What came of them."""

    last: Places
    """Where they ended: a draw."""
    mean: Places
    """Of all places after the warm-up."""
    accepted: Float[Tensor, " b"]
    """Part of the proposals after the warm-up that was."""
    step_size: Float[Tensor, " b"]
    """The step's length in the end."""


def hmc(density: LogDensity, start: Places, how: HMC | None = None) -> Chains:
    """Go on from each place. Where a density is not finite nothing is accepted, so that a chain
    stays where it was.
    """
    how = how or HMC()
    chance = torch.Generator().manual_seed(how.seed)
    step_size = start.new_full((len(start),), how.step_size)
    z, (value, slope) = start.detach(), _slope(density, start)
    total, taken = torch.zeros_like(z), torch.zeros_like(step_size)
    for step in range(how.steps):
        momentum = torch.randn(z.shape, generator=chance).to(z)
        # Ways that are all as long may lead back to where they began (Neal 2011, section 3.2).
        varied = 2 * torch.rand(len(z), generator=chance).to(step_size) - 1
        length = step_size * (1 + VARIED * varied)
        at, there, pull, end = _leapfrog(density, z, slope, momentum, length, how.leapfrog)
        gain = there - value + _kinetic(momentum) - _kinetic(end)
        part = torch.where(gain.isfinite(), gain, -torch.inf).clamp_max(0).exp()
        yes = torch.rand(len(z), generator=chance).to(part) < part
        z, slope = (torch.where(_along(yes, z), *both) for both in ((at, z), (pull, slope)))
        value = torch.where(yes, there, value)
        if step < how.warm_up:
            step_size = step_size * (GAIN * (part - how.accepted) / (step + 1) ** 0.5).exp()
        else:
            total, taken = total + z, taken + yes
    count = how.steps - how.warm_up
    return Chains(z, total / count, taken / count, step_size)


def _leapfrog(
    density: LogDensity, z: Places, slope: Places, momentum: Places, lengths: Float[Tensor, " b"],
    steps: int,
) -> tuple[Places, Float[Tensor, " b"], Places, Places]:  # fmt: skip
    """Places, their densities and slopes, and momenta, after so many steps (Neal 2011, eq. 2.28 to
    2.30).
    """
    length, value = _along(lengths, z), torch.zeros_like(lengths)
    momentum = momentum + length / 2 * slope
    for step in range(steps):
        z = z + length * momentum
        value, slope = _slope(density, z)
        momentum = momentum + (length if step < steps - 1 else length / 2) * slope
    return z, value, slope, momentum


@torch.enable_grad()
def _slope(density: LogDensity, z: Places) -> tuple[Float[Tensor, " b"], Places]:
    asked = z.detach().clone().requires_grad_()
    value = density(asked)
    (slope,) = torch.autograd.grad(value.sum(), [asked])
    return value.detach(), slope


def _kinetic(momentum: Places) -> Float[Tensor, " b"]:
    return momentum.flatten(1).square().sum(1) / 2


def _along(each: Tensor, z: Places) -> Tensor:
    """One value a chain, beside its numbers."""
    return each.view(-1, *[1] * (z.ndim - 1))
