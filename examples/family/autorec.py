"""Ratings of films by an autoencoder (AutoRec: Sedhain et al. 2015): a user is a picture most of
whose pixels were never seen, and the error counts where they were. A corruption says both.

    python examples/family/autorec.py

ends in runs/examples/autorec.png: ratings that were given, those that were kept back, and those
that are foretold.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from learning import ROOT, learn, member
from matplotlib.figure import Figure
from torch import Tensor

from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.corruptions import Corrupted, Corruption
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW
from calotype.training.noise import Generators

SIDE, RANK, NOISE, SEEN = 14, 6, 0.3, 0.2
"""Of a user's picture, 196 films; of what is to be known; of ratings, in stars; share of them."""
STARS = 4.0
"""So many away from the mean are 1 of a picture's values."""
NEVER = 2.0
"""What stands where there is no rating: no picture has such a value."""


@dataclass(frozen=True)
class Unrated(Corruption):
    """Ratings that were never given are nothing to the encoder and do not count; of the given the
    encoder sees a part, so that it learns to foretell (Vincent et al. 2008).
    """

    kept_back: float = 0.3
    """Share of the given that it does not see, though they count."""

    def __call__(self, images: Tensor, generators: Generators) -> Corrupted:
        """Say what is seen, and what counts."""
        given = (images != NEVER).to(images)
        drawn = torch.stack([torch.rand(images.shape[1:], generator=g) for g in generators])
        return Corrupted(torch.where(drawn < self.kept_back, 0, images * given), given)


def ratings(users: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ratings [users, films], in stars about the mean, and which of them were given."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    films = SIDE * SIDE
    taste = normal(users, RANK) @ normal(RANK, films) * RANK**-0.5
    whole = taste + 0.4 * normal(users, 1) + 0.4 * normal(1, films) + NOISE * normal(users, films)
    return whole, torch.rand(users, films, generator=generator) < SEEN


def by_biases(whole: Tensor, given: Tensor, ridge: float = 2.0, turns: int = 20) -> Tensor:
    """The mean, and how generous each user and each film is, by ridge regression in turns."""
    mean = whole[given].mean()
    users, films = torch.zeros(len(whole), 1), torch.zeros(1, whole.shape[1])
    for _ in range(turns):
        users = ((whole - mean - films) * given).sum(1, True) / (given.sum(1, True) + ridge)
        films = ((whole - mean - users) * given).sum(0, True) / (given.sum(0, True) + ridge)
    return mean + users + films


def by_factors(whole: Tensor, given: Tensor, ridge: float = 0.5, turns: int = 20) -> Tensor:
    """What the biases leave, by as many factors as there are: alternating least squares, which
    know how ratings came about (Koren et al. 2009).
    """
    base = by_biases(whole, given)
    left, known = (whole - base) * given, given.float()
    films = torch.randn(whole.shape[1], RANK, generator=torch.Generator().manual_seed(1))
    users = torch.empty(0)
    for _ in range(turns):
        users = _solved(films, left, known, ridge)
        films = _solved(users, left.T, known.T, ridge)
    return base + users @ films.T


def _solved(factors: Tensor, left: Tensor, known: Tensor, ridge: float) -> Tensor:
    normal = torch.einsum("uf,fi,fj->uij", known, factors, factors) + ridge * torch.eye(RANK)
    return torch.linalg.solve(normal, left @ factors)


def by_autoencoder(whole: Tensor, given: Tensor, steps: int, latent: int = 12) -> Tensor:
    """What one foretells that was trained on the given, and is shown all of them."""
    pictures = torch.where(given, whole / STARS, NEVER).view(-1, 1, SIDE, SIDE)
    objective = member(
        NewTokenizer(Dense((128,), "tanh"), Identity(latent)), SIDE, corruption=Unrated(),
        optimizer=AdamW(2e-3, weight_decay=0.1, schedule="cosine"),
    )  # fmt: skip
    learn(objective, {"image": pictures}, steps)
    with torch.no_grad():
        seen = torch.where(pictures == NEVER, 0, pictures)
        return objective.tokenizer.reconstruct(seen).flatten(1) * STARS


def error(answer: Tensor, whole: Tensor, given: Tensor) -> float:
    """Root mean square error, in stars, of ratings that nobody gave."""
    return (answer - whole)[~given].square().mean().sqrt().item()


def main(root: Path = ROOT, steps: int = 1500, count: int = 600) -> Path:
    """Train it, and say its error on ratings that nobody gave."""
    root.mkdir(parents=True, exist_ok=True)
    whole, given = ratings(count)
    answers = {
        "autoencoder": by_autoencoder(whole, given, steps), "biases": by_biases(whole, given),
        "global mean": torch.full_like(whole, whole[given].mean()),
        "factors of the right rank": by_factors(whole, given),
    }  # fmt: skip
    errors = {name: round(error(each, whole, given), 3) for name, each in answers.items()}
    print(f"RMSE in stars of ratings that nobody gave: {errors}, of which noise {NOISE}")
    figure = Figure(figsize=(10, 3), layout="constrained")
    shown = {
        "given": torch.where(given, whole, torch.nan), "all": whole,
        "by an autoencoder": answers["autoencoder"], "by biases": answers["biases"],
    }  # fmt: skip
    for axis, (name, values) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        axis.imshow(values[:40, :40], "coolwarm", vmin=-3, vmax=3)
        axis.set(title=name, xlabel="films", ylabel="users", xticks=[], yticks=[])
    figure.savefig(root / "autorec.png")
    return root / "autorec.png"


if __name__ == "__main__":
    tyro.cli(main)
