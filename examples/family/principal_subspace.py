"""A linear autoencoder finds the principal subspace of its pictures, and not the principal
directions (Baldi & Hornik 1989; Kunin et al. 2019): any basis of it rebuilds as well.

    python examples/family/principal_subspace.py

ends in runs/examples/principal_subspace.png: digits, what either rebuilds of them, the principal
directions, the autoencoder's columns, and these columns turned upon the directions.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from learning import ROOT, learn, member
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW

NUMBERS, SIZE = 8, 8


def digits() -> Tensor:
    """scikit-learn's, images [1797 1 8 8] in [-1, 1]."""
    rows, _ = load_digits(return_X_y=True)
    return torch.from_numpy(rows).float().view(-1, 1, SIZE, SIZE) / 8 - 1


def trained(images: Tensor, steps: int) -> ImageTokenizer:
    """A linear one, all digits at each step."""
    model = NewTokenizer(Dense(()), Identity(NUMBERS))
    optimizer = AdamW(3e-2, (0.9, 0.99), schedule="cosine")
    objective = member(model, SIZE, optimizer=optimizer)
    learn(objective, {"image": images}, steps, len(images))
    return objective.tokenizer


@dataclass
class Found:
    """An autoencoder's subspace beside the principal one."""

    angle: float
    """The largest principal angle between them, in degrees."""
    error: float
    """Mean squared error, of that of as many principal components."""
    lean: float
    """Largest cosine between two of the decoder's columns; principal directions have 0."""
    columns: Tensor
    """The decoder's, [64 8]: what each number adds to a picture."""
    turned: Tensor
    """The principal directions within its subspace, [64 8]."""


def compared(tokenizer: ImageTokenizer, images: Tensor, pca: PCA) -> Found:
    """Of a linear autoencoder."""
    flat, axes = images.flatten(1).double(), torch.from_numpy(pca.components_).double()
    with torch.no_grad():
        ends = tokenizer.decode(torch.eye(NUMBERS + 1)[:, :NUMBERS, None, None]).flatten(1)
        own = tokenizer.reconstruct(images).flatten(1).double()
    columns = (ends[:NUMBERS] - ends[NUMBERS]).double().T
    basis = torch.linalg.qr(columns)[0]
    cosines = torch.linalg.svdvals(axes @ basis)
    best = torch.from_numpy(pca.inverse_transform(pca.transform(flat.numpy())))
    unit = torch.nn.functional.normalize(columns, dim=0)
    between = unit.T @ unit - torch.eye(NUMBERS)
    return Found(
        float(torch.rad2deg(torch.arccos(cosines.min().clamp(max=1)))),
        float((own - flat).square().mean() / (best - flat).square().mean()),
        float(between.abs().max()), columns, basis @ (basis.T @ axes.T),
    )  # fmt: skip


def main(root: Path = ROOT, steps: int = 3000) -> Path:
    """Train, compare, draw."""
    root.mkdir(parents=True, exist_ok=True)
    images = digits()
    pca = PCA(NUMBERS).fit(images.flatten(1).double().numpy())
    tokenizer = trained(images, steps)
    found = compared(tokenizer, images, pca)
    print(f"largest angle to the principal subspace: {found.angle:.4f} degrees")
    print(f"error, of that of {NUMBERS} principal components: {found.error:.5f}")
    print(f"largest cosine between columns: {found.lean:.2f}, of principal directions 0")
    shown = images[:NUMBERS].flatten(1).double().numpy()
    with torch.no_grad():
        rebuilt = tokenizer.reconstruct(images[:NUMBERS]).flatten(1)
    rows = {
        "digits": shown, "by PCA": pca.inverse_transform(pca.transform(shown)),
        "by the autoencoder": rebuilt, "principal directions": pca.components_,
        "its columns": found.columns.T, "turned": found.turned.T,
    }  # fmt: skip
    figure = Figure(figsize=(NUMBERS, len(rows) + 0.8), layout="constrained")
    for (name, row), axes in zip(rows.items(), figure.subplots(len(rows), NUMBERS), strict=True):
        for vector, axis in zip(row, axes, strict=True):
            axis.imshow(vector.reshape(SIZE, SIZE), cmap="gray")
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(root / "principal_subspace.png")
    return root / "principal_subspace.png"


if __name__ == "__main__":
    tyro.cli(main)
