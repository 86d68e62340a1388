"""Ways from one latent to another: straight, around, and where pictures change least."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Decode = Callable[[Float[Tensor, "n ..."]], Float[Tensor, "n ..."]]
"""Pictures of latents, with gradients: `ImageTokenizer.decode`."""
Path = Float[Tensor, "t b ..."]
"""Latents on the way, of several ways beside each other; the first and the last are the ends."""


def linear(first: Float[Tensor, "b ..."], last: Float[Tensor, "b ..."], points: int) -> Path:
    """The straight way.

    Raises:
        ValueError: fewer than two points.
    """
    part = _parts(first, points)
    return (1 - part) * first + part * last


def spherical(first: Float[Tensor, "b ..."], last: Float[Tensor, "b ..."], points: int) -> Path:
    """Around the origin, at a length that goes from the one's to the other's: between draws of
    N(0, 1) of many numbers the straight way leads where none of them are (White 2016).

    Raises:
        ValueError: fewer than two points.
    """
    dims = tuple(range(1, first.ndim))
    near, far = (torch.linalg.vector_norm(end, dim=dims, keepdim=True) for end in (first, last))
    one, other = first / near.clamp_min(1e-12), last / far.clamp_min(1e-12)
    angle = (one * other).sum(dims, keepdim=True).clamp(-1, 1).arccos()
    part, sine = _parts(first, points), angle.sin()
    around = (((1 - part) * angle).sin() * one + (part * angle).sin() * other) / sine
    # Of ends in line there is no one way around.
    unit = torch.where(sine > 1e-4, around, (1 - part) * one + part * other)
    found = unit * ((1 - part) * near + part * far)
    return torch.cat([first[None], found[1:-1], last[None]])


def geodesic(
    decode: Decode, first: Float[Tensor, "b ..."], last: Float[Tensor, "b ..."], points: int,
    steps: int = 200, step_size: float = 0.05,
) -> Path:  # fmt: skip
    """The way of the least energy (Shao et al. 2018, algorithm 1), from the straight one by Adam;
    of each pair the best that was met, so that its energy is never above the straight way's.

    Args:
        decode: What makes pictures of latents, and tells gradients.
        first: One end of each way.
        last: The other.
        points: Of each, ends and all.
        steps: Of the optimiser.
        step_size: How far a step goes, in parts of the mean distance of ends, by number.

    Raises:
        ValueError: fewer than two points.
    """
    best = linear(first, last, points).detach()
    if points == 2:
        return best
    least = energy(decode, best)
    inside = best[1:-1].clone().requires_grad_()
    length = (last - first).detach().square().mean().sqrt().item()
    optimizer = torch.optim.Adam([inside], step_size * length)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        way = torch.cat([first[None].detach(), inside, last[None].detach()])
        spent = _energy(decode, way)
        best, least = _better(best, least, way.detach(), spent.detach())
        (inside.grad,) = torch.autograd.grad(spent.sum(), [inside])
        optimizer.step()
        schedule.step()
    way = torch.cat([first[None], inside, last[None]]).detach()
    return _better(best, least, way, energy(decode, way))[0]


@torch.no_grad()
def energy(decode: Decode, path: Path) -> Float[Tensor, " b"]:
    """Of each way: how many steps it has, times the sum of squared distances between the pictures
    of neighbours. Of as many steps that are all alike it is the squared length of the way of
    pictures.
    """
    return _energy(decode, path)


def _energy(decode: Decode, path: Path) -> Float[Tensor, " b"]:
    seen = decode(path.flatten(0, 1)).unflatten(0, path.shape[:2]).flatten(2)
    return (len(path) - 1) * (seen[1:] - seen[:-1]).square().sum((0, 2))


def _better(
    best: Path, least: Float[Tensor, " b"], way: Path, spent: Float[Tensor, " b"]
) -> tuple[Path, Float[Tensor, " b"]]:
    lower = spent < least
    shape = (1, -1, *[1] * (best.ndim - 2))
    return torch.where(lower.view(shape), way, best), torch.where(lower, spent, least)


def _parts(first: Tensor, points: int) -> Tensor:
    if points < 2:
        raise ValueError(f"points is {points}: a way has at least its two ends")
    return torch.linspace(0, 1, points).to(first).view(-1, *[1] * first.ndim)
