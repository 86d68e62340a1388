"""Noise that bottlenecks draw, for each sample by itself."""

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.training.noise import Generators, sent

LEAST = 1e-30
"""Of an exponential number, so that it has a logarithm."""


def exponential(
    like: Float[Tensor, "b ..."], generator: Generators | None
) -> Float[Tensor, "b ..."]:
    """Exponential numbers of mean 1; exp of their negative is uniform in (0, 1)."""
    if generator is None:
        return torch.empty_like(like).exponential_().clamp_min(LEAST)
    rows = [torch.empty(like.shape[1:]).exponential_(generator=own) for own in generator]
    return sent(torch.stack(rows), like.device).clamp_min(LEAST)


def normal(like: Float[Tensor, "b ..."], generator: Generators | None) -> Float[Tensor, "b ..."]:
    """Standard normal numbers."""
    if generator is None:
        return torch.randn_like(like)
    rows = [torch.randn(like.shape[1:], generator=own) for own in generator]
    return sent(torch.stack(rows), like.device)


def logistic(like: Float[Tensor, "b ..."], generator: Generators | None) -> Float[Tensor, "b ..."]:
    """Standard logistic numbers: a bit is 1 where its logit and one of them are together above
    0.
    """
    of_both = exponential(torch.stack([like, like], dim=1), generator).log()
    return of_both[:, 0] - of_both[:, 1]
