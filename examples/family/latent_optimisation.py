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
from calotype.tokenizers.bottlenecks import Gaussian
from calotype.tokenizers.terms import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.vector import Dense

SIZE = 16
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
    start: Tensor, draw: Callable[[Tensor], Tensor], wanted: float, weight: float,
    rate: float = 0.05, steps: int = 200,
) -> list[Tensor]:  # fmt: skip
    """Pictures on the way from `start` to `wanted` times their areas; what is moved pays `weight`
    for the half square of its norm, which for a latent is how unlikely the prior holds it to be.
    """
    moved = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], rate)
    with torch.no_grad():
        way, goal = [draw(moved)], area(draw(moved)) * wanted
    for step in range(steps):
        short = (1 - area(draw(moved)) / goal).relu()
        loss = (short + weight * moved.flatten(1).square().sum(1) / 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % (steps // 4) == 0:
            way.append(draw(moved).detach())
    return way


def main(
    root: Path = ROOT, steps: int = 2000, count: int = 4000, latent: int = 8, wanted: float = 3.0,
    weight: float = 0.002,
) -> Path:  # fmt: skip
    """Train a VAE, make small shapes larger, and say how near to drawn ones they remain."""
    data, unseen = shapes(count, 0), shapes(count // 4, 1)
    term = GaussianLikelihood(deviation=FixedDeviation(0.2))
    neck = Gaussian(latent, kl_weight=1.0, keep_prior=True)
    objective = member(NewTokenizer(Dense((256, 256), "silu"), neck), SIZE, term)
    learn(objective, {"image": data}, steps)
    tokenizer = objective.tokenizer.requires_grad_(False)
    small = shapes(64, 2, (0.14, 0.2))
    with torch.no_grad():
        latents = tokenizer.latents(small)
    ways = {"latent": ascend(latents, tokenizer.decode, wanted, weight),
            "latent, no prior": ascend(latents, tokenizer.decode, wanted, 0.0),
            "pixels": ascend(small, lambda x: x.clamp(-1, 1), wanted, 0.0)}  # fmt: skip
    real = nearest(unseen, data)
    print(f"drawn shapes, unseen: {real:.3f} from the nearest that was trained on")
    for name, way in ways.items():
        before, after = (area(each).mean().item() for each in (way[0], way[-1]))
        away = nearest(way[-1].clamp(-1, 1), data)
        print(f"{name}: area {before:.3f} to {after:.3f}, {after / before:.2f} times; nearest "
              f"{away:.3f}, {away / real:.2f} times that")  # fmt: skip
    shown = [step[i] for way in (ways["latent"], ways["pixels"]) for i in range(3) for step in way]
    captions = [f"{name}, {area(step[i : i + 1]).item():.2f}"
                for name in ("latent", "pixels") for i in range(3) for step in ways[name]]  # fmt: skip
    file = root / "latent-optimisation.png"
    write_sheet(file, torch.stack(shown), captions, columns=len(ways["latent"]), side=96)
    return file


if __name__ == "__main__":
    tyro.cli(main)
