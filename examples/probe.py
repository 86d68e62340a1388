"""What a linear classifier and nearest neighbours make of latents, beside raw pixels and beside an
encoder that was never trained.

    python examples/probe.py

ends in runs/examples/probe.png: how often each tells a scene's shape, and whom it takes for near.
"""

from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from prepared import ROOT, STEPS, continuous, scenes
from torch import Tensor

import calotype

REGULARISATION = 1.0
SHOWN, NEIGHBOURS = 4, 5


def accuracy(train: Tensor, test: Tensor, labels: Tensor, answers: Tensor) -> float:
    """Of a linear classifier by ridge regression to one-hot labels."""
    x = torch.cat([train, torch.ones(len(train), 1)], 1).double()
    targets = torch.nn.functional.one_hot(labels).double()
    weights = torch.linalg.solve(x.T @ x + REGULARISATION * torch.eye(x.shape[1]), x.T @ targets)
    found = torch.cat([test, torch.ones(len(test), 1)], 1).double() @ weights
    return (found.argmax(1) == answers).double().mean().item()


def nearest(train: Tensor, test: Tensor) -> Tensor:
    """Places of the nearest of `train`, for each of `test`."""
    return torch.cdist(test, train).topk(NEIGHBOURS, largest=False).indices


def main(root: Path = ROOT, steps: int = STEPS, count: int = 4000) -> Path:
    """Train a tokenizer, if there is none, and probe it."""
    tokenizer = calotype.load(continuous(root, steps)).eval()
    torch.manual_seed(0)
    fresh = type(tokenizer.autoencoder).from_config(tokenizer.autoencoder.config)
    untrained = calotype.ImageTokenizer.around(fresh).eval()
    images, _, labels = scenes(count)
    others, _, answers = scenes(500, "held-out")
    with torch.no_grad():
        views = {
            "pixels": (images.flatten(1), others.flatten(1)),
            "untrained": tuple(untrained.latents(x).flatten(1) for x in (images, others)),
            "latents": tuple(tokenizer.latents(x).flatten(1) for x in (images, others)),
        }
    views = {name: tuple(part / train.std() for part in (train, test))
             for name, (train, test) in views.items()}  # fmt: skip
    figure = Figure(figsize=(10, 6), layout="constrained")
    bars, *rows = figure.subplots(1 + SHOWN, 1, height_ratios=[2, 1, 1, 1, 1])
    probed = [accuracy(*view, labels, answers) for view in views.values()]
    near = {name: nearest(*view) for name, view in views.items()}
    voted = [(labels[each].mode(1).values == answers).double().mean().item()
             for each in near.values()]  # fmt: skip
    for offset, values, label in ((-0.2, probed, "linear"), (0.2, voted, "neighbours")):
        drawn = bars.bar([i + offset for i in range(3)], values, 0.38, label=label)
        bars.bar_label(drawn, fmt="%.2f")
    bars.set(xticks=range(3), xticklabels=list(views), ylim=(0, 1.15), ylabel="shape told right")
    bars.legend(loc="upper left", ncols=2)
    for i, row in enumerate(rows):
        strip = [others[i], *(images[j] for name in views for j in near[name][i])]
        row.imshow((torch.cat(strip, 2).movedim(0, -1) + 1) / 2)
        row.set(xticks=[], yticks=[])
    rows[0].set_title("a scene, and the nearest by " + ", by ".join(views))
    figure.savefig(root / "probe.png")
    print(
        {name: [round(p, 3), round(v, 3)] for name, p, v in zip(views, probed, voted, strict=True)}
    )
    return root / "probe.png"


if __name__ == "__main__":
    tyro.cli(main)
