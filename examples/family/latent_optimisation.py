"""A property is made larger through a decoder: steps in the latent, along the gradient of what the
decoder draws, as Gomez-Bombarelli et al. 2018 do with molecules. Here it is the area of a drawn
shape, which pixels say by themselves; molecules would need a codec of strings, which this house has
not.

    python examples/family/latent_optimisation.py

ends in runs/examples/latent-optimisation.png: shapes on their way, beside the same steps in pixels.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro
from learning import ROOT, learn, member
from torch import Tensor

from calotype.data.drawn.shapes import coverage
from calotype.pages.sheet import write_sheet
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Gaussian
from calotype.tokenizers.terms import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.vector import Dense

SIZE = 16
SMALL = (0.14, 0.2)
"""Radii of shapes that are to become larger, of the picture's side."""
NAMES = ("circle", "square", "diamond", "cross")


def shapes(count: int, seed: int, radius: tuple[float, float] = (0.12, 0.4)) -> Tensor:
    """Images [n 1 16 16] in [-1, 1]: a white shape on black, wholly within."""
    rng = np.random.default_rng(seed)
    radii = rng.uniform(*radius, count)
    places = 0.5 + rng.uniform(-1, 1, (2, count)) * (0.45 - radii).clip(0)
    layout = np.stack([*places, radii], 1).astype(np.float32)
    masks = coverage([str(rng.choice(NAMES)) for _ in range(count)], layout, SIZE)
    return torch.from_numpy(masks)[:, None] * 2 - 1


def area(images: Tensor) -> Tensor:
    """Share of each picture that is white."""
    return (images.clamp(-1, 1).mean((1, 2, 3)) + 1) / 2


def nearest(images: Tensor, data: Tensor) -> float:
    """Root mean square distance to the nearest of the data, in the median."""
    found = torch.cdist(images.flatten(1), data.flatten(1)).min(1).values
    return found.median().item() / SIZE


def ascend(
    start: Tensor, draw: Callable[[Tensor], Tensor], wanted: float, rate: float,
    weight: float = 0.0, steps: int = 300,
) -> list[Tensor]:  # fmt: skip
    """Pictures on the way from `start` to `wanted` times their areas, by gradient descent; `weight`
    is paid for half the square of the norm of what moves: of a latent, how unlikely its prior holds
    it to be.
    """
    moved = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([moved], rate)
    with torch.no_grad():
        way = [draw(moved)]
    goal = area(way[0]) * wanted
    for step in range(steps):
        short = (1 - area(draw(moved)) / goal).relu()
        loss = (short + weight * moved.flatten(1).square().sum(1) / 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % (steps // 4) == 0:
            way.append(draw(moved).detach())
    return way


def trained(images: Tensor, steps: int, latent: int = 8) -> ImageTokenizer:
    """A VAE of shapes, which is smooth enough to be followed: its likelihood is wide."""
    term = GaussianLikelihood(deviation=FixedDeviation(0.4))
    neck = Gaussian(latent, kl_weight=1.0, keep_prior=True)
    objective = member(NewTokenizer(Dense((256, 256), "silu"), neck), SIZE, term)
    learn(objective, {"image": images}, steps)
    return objective.tokenizer.requires_grad_(False)


def ways(tokenizer: ImageTokenizer, small: Tensor, wanted: float) -> dict[str, list[Tensor]]:
    """Small shapes on their way to larger ones, in the latent and in pixels."""
    latents = tokenizer.latents(small)
    return {
        "latent": ascend(latents, tokenizer.decode, wanted, 0.1, 0.02),
        "latent, no prior": ascend(latents, tokenizer.decode, wanted, 0.1),
        "pixels": ascend((0.98 * small).atanh(), torch.tanh, wanted, 25.0),
    }


def alike(images: Tensor, others: Tensor) -> Tensor:
    """Those of about the areas that others have."""
    least, most = area(others).quantile(torch.tensor([0.1, 0.9]))
    found = images[(area(images) > least) & (area(images) < most)]
    return found if len(found) else images


def main(root: Path = ROOT, steps: int = 1500, count: int = 4000, wanted: float = 2.5) -> Path:
    """Train a VAE, make small shapes larger, and say how near to drawn ones they remain."""
    data = shapes(count, 0)
    tokenizer = trained(data, steps)
    found = ways(tokenizer, shapes(64, 2, SMALL), wanted)
    real = alike(shapes(1000, 1), found["latent"][-1])
    rebuilt = tokenizer.reconstruct(real).clamp(-1, 1)
    print(f"unseen shapes of such areas: the nearest that was trained on {nearest(real, data):.3f} "
          f"away, and {nearest(rebuilt, data):.3f} of those rebuilt")  # fmt: skip
    for name, way in found.items():
        before, after = (area(each).mean().item() for each in (way[0], way[-1]))
        print(f"{name}: area {before:.3f} to {after:.3f}, {after / before:.2f} times; the nearest "
              f"{nearest(way[-1].clamp(-1, 1), data):.3f} away")  # fmt: skip
    rows = [(name, way, i) for name, way in found.items() for i in range(2)]
    captions = [f"{name}, {area(step)[i]:.2f}" for name, way, i in rows for step in way]
    shown = torch.stack([step[i] for _, way, i in rows for step in way])
    file = root / "latent-optimisation.png"
    write_sheet(file, shown, captions, columns=5, side=96)
    return file


if __name__ == "__main__":
    tyro.cli(main)
