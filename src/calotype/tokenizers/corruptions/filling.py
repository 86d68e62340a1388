"""What hidden pixels are shown to an encoder as."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.tokenizers.corruptions.base import Images

SWEEPS = 16
"""Of relaxation at each resolution."""

Hidden = Float[Tensor, "#b 1 H W"]


def filled(images: Images, hidden: Hidden, value: float | None) -> Images:
    """Images without what is hidden.

    Args:
        images: About [-1, 1]; pixels that are hidden are not read.
        hidden: 1 where a pixel is hidden, 0 where it is seen.
        value: What hidden pixels become. None: a smooth continuation of what is around them, about
            that of Laplace's equation, so that an encoder has to mend a guess and not to make one.
    """
    if value is not None:
        return torch.where(hidden > 0, value, images)
    return _continued(images, (hidden == 0).expand(len(images), -1, -1, -1))


def _continued(images: Tensor, seen: Tensor) -> Tensor:
    """Relaxed from the coarsest resolution to the finest (cascadic multigrid, Bornemann & Deuflhard
    1996), each beginning with what a coarser one found.
    """
    height, width = images.shape[-2:]
    if height == width == 1:
        return images.where(seen, 0.0)
    share = _halved(seen.to(images))
    coarse = _halved(images.where(seen, 0.0)) / share.clamp_min(1e-6)
    coarser = _continued(coarse, share > 0)
    found = functional.interpolate(coarser, (height, width), mode="bilinear")
    for _ in range(SWEEPS):
        found = _neighbours(images.where(seen, found))
    return images.where(seen, found)


def _halved(images: Tensor) -> Tensor:
    """Of odd sides the last pixels are means of those that there are."""
    return functional.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)


def _neighbours(images: Tensor) -> Tensor:
    """The mean of four; past the border a pixel is its own neighbour."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    columns = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    return (columns + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]) / 4
