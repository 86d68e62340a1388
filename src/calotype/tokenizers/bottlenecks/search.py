"""The nearest of many codes, and codes that are near to many points."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

BLOCK, BLOCK_ON_DEVICE = 2**21, 2**26
"""Scores held at once, 8 MiB of them, or 256 MiB where each block costs a launch; one site's, where
there are more codes than that."""


@torch.no_grad()
def nearest(points: Float[Tensor, "n d"], codes: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """Index of the code at the smallest Euclidean distance from each point, in float32.

    |p - e|^2 is |p|^2 - 2 (p.e - |e|^2 / 2), so that the largest bracket is the nearest code.
    """
    with torch.autocast(points.device.type, enabled=False):
        points, codes = points.float(), codes.float()
        half = codes.square().sum(1) / 2
        ids = torch.empty(len(points), dtype=torch.long, device=points.device)
        block = BLOCK if points.device.type == "cpu" else BLOCK_ON_DEVICE
        rows = min(max(1, block // len(codes)), len(points))
        # One block for all: of many that are freed by turns the C library keeps most.
        scores = points.new_empty(rows, len(codes))
        for part, found in zip(points.split(rows), ids.split(rows), strict=True):
            these = scores[: len(part)]
            torch.addmm(half, part, codes.T, beta=-1, out=these)
            torch.argmax(these, 1, out=found)
        return ids


def assign(x: Float[Tensor, "b c h w"], codes: Float[Tensor, "k c"]) -> Int[Tensor, "b h w"]:
    """Ids of the nearest code of each site."""
    return nearest(sites(x), codes).reshape(len(x), *x.shape[2:])


def look_up(ids: Int[Tensor, "b h w"], codes: Float[Tensor, "k c"]) -> Float[Tensor, "b c h w"]:
    """The codes of ids, with gradient to them."""
    return functional.embedding(ids, codes).movedim(-1, 1)


def sites(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c"]:
    """Features of each site, image by image."""
    return x.movedim(1, -1).flatten(0, 2)


@torch.no_grad()
def k_means(
    points: Float[Tensor, "n d"], k: int, iterations: int, spherical: bool = False
) -> Float[Tensor, "k d"]:
    """Lloyd's algorithm from the first `k` points, which the caller has put into random order.

    A centre without points stays where it is; of fewer than `k` points, some are several centres.
    `spherical`: points and centres lie on the unit sphere.
    """
    centres = points[torch.arange(k, device=points.device) % len(points)].clone()
    for _ in range(iterations):
        ids = nearest(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, ids, points)
        counts = points.new_zeros(k).index_add_(0, ids, torch.ones_like(points[:, 0]))
        means = sums / counts.clamp_min(1)[:, None]
        if spherical:
            means = torch.nn.functional.normalize(means, dim=1)
        centres = torch.where(counts[:, None] > 0, means, centres)
    return centres
