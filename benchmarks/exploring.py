"""What ways and directions in latents are worth, beside straight ways and random directions.

    python benchmarks/exploring.py

Geodesics between 22 pairs of held-out digits, in the two numbers of a variational autoencoder with
smooth layers (Shao et al. 2018; Chen et al. 2018 call the measure of them energy); the direction of
size on shapes whose true size and place are known (Larsen et al. 2016). Prints a table and exits
with 1 where a bar is missed.
"""

import sys

import numpy as np
import torch
from claims.learning import NORMAL, Figure, digits, trained
from torch import Tensor

from calotype.data import Shapes
from calotype.tokenizers import Gaussian
from calotype.tokenizers.vector import Dense
from calotype.uses.attributes import direction, random_like
from calotype.uses.exploring import Decoder
from calotype.uses.paths import energy, geodesic, linear

PAIRS, POINTS = 22, 24


def geodesics(steps: int = 6000) -> list[Figure]:
    """Of least energy, beside straight ways."""
    learnt, _, held, _ = digits()
    made = trained(Gaussian(2, kl_weight=1.0, keep_prior=True), learnt, NORMAL, steps,
                   dense=Dense((256, 256), "tanh"))  # fmt: skip
    decode = Decoder(made, 1024)
    latents = decode.latents(held)
    chosen = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))[: 2 * PAIRS]
    first, last = latents[chosen[:PAIRS]], latents[chosen[PAIRS:]]
    straight, found = linear(first, last, POINTS), geodesic(decode, first, last, POINTS, 1500)
    part = (energy(decode, found) / energy(decode, straight)).numpy()
    long = (_length(decode, found) / _length(decode, straight)).numpy()
    said = f"from {part.min():.3f} to {part.max():.3f}; lengths {np.median(long):.3f}"
    return [
        Figure("geodesic: energy, of the straight way's, the largest", float(part.max()), "<= 1",
               bool(part.max() <= 1), said),
        Figure("geodesic: the same, the median", float(np.median(part)), "<= 0.85",
               bool(np.median(part) <= 0.85)),
    ]  # fmt: skip


@torch.no_grad()
def _length(decode: Decoder, path: Tensor) -> Tensor:
    seen = decode(path.flatten(0, 1)).unflatten(0, path.shape[:2]).flatten(2)
    return (seen[1:] - seen[:-1]).norm(dim=2).sum(0)


def size(steps: int = 3000) -> list[Figure]:
    """Small shapes with the direction of size: how much larger they are, and where they go."""
    data = Shapes().build()
    every = data.batch(range(len(data)))
    images, scale = every["image"][:, :1], every["factors"][:, 1]
    made = trained(Gaussian(8, kl_weight=1.0, keep_prior=True), images, NORMAL, steps, 128,
                   dense=Dense((256, 256), "silu"))  # fmt: skip
    decode = Decoder(made, 1024)
    z = decode.latents(images)
    ends = (scale == scale.min()) | (scale == scale.max())
    way = direction(z[ends], (scale == scale.max())[ends])
    small = z[scale == scale.min()]
    area, drift = _moved(decode, small, way)
    control = [_moved(decode, small, random_like(way, seed)) for seed in range(5)]
    other, astray = np.mean(control, 0).tolist()
    true = _ink(images[scale == scale.max()]).mean() / _ink(images[scale == scale.min()]).mean()
    said = f"random directions x{other:.2f} and {astray:.3f}; true ratio x{true:.2f}"
    return [
        Figure("size: area, times", area, ">= 1.6", area >= 1.6, said),
        Figure("size: its middle moves, of the width", drift, "<= 0.04", drift <= 0.04),
        Figure("size: the same, of what random directions move it", drift / astray, "<= 0.5",
               drift <= 0.5 * astray),
    ]  # fmt: skip


@torch.no_grad()
def _moved(decode: Decoder, z: Tensor, way: Tensor) -> tuple[float, float]:
    """Area after, of that before, and how far the middle goes, of the width; means."""
    before, after = decode(z), decode(z + way)
    apart = (_middle(after) - _middle(before)).norm(dim=1) / before.shape[-1]
    return (_ink(after).mean() / _ink(before).mean()).item(), apart.mean().item()


def _ink(images: Tensor) -> Tensor:
    return ((images + 1) / 2).clamp(0, 1).sum((1, 2, 3))


def _middle(images: Tensor) -> Tensor:
    """Row and column, in pixels."""
    light = ((images[:, 0] + 1) / 2).clamp(0, 1)
    rows, columns = (torch.arange(n).float() for n in light.shape[1:])
    found = torch.stack([(light.sum(2) * rows).sum(1), (light.sum(1) * columns).sum(1)], 1)
    return found / light.sum((1, 2))[:, None].clamp_min(1e-6)


def main() -> int:
    """Measure, print; how many bars were missed."""
    print("| figure | measured | bar | beside |\n|---|---|---|---|")
    found = [figure for claim in (geodesics, size) for figure in claim()]
    for figure in found:
        print(figure.row())
    return sum(not figure.holds for figure in found)


if __name__ == "__main__":
    sys.exit(main() > 0)
