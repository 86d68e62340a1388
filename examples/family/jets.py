"""Jets of particles as pictures, of one prong and of two: an autoencoder of either kind, and
whether its error tells the other kind. It does in one direction alone (Finke et al. 2021; Dillon et
al. 2021): what has more in it is harder to rebuild, whatever was trained on.

    python examples/family/jets.py

ends in runs/examples/jets.png: jets, what is rebuilt of them, and the errors' histograms.
"""

from pathlib import Path

import torch
import tyro
from learning import ROOT, learn, member
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from torch import Tensor

from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.vector import Dense

SIZE = 16
PARTICLES = 40.0
"""Of a jet, in the mean, of one prong or two: so their number tells nothing."""
WIDTH = 1.1
"""Standard deviation of a prong, in pixels."""
KINDS = ("one prong", "two prongs")


def jets(prongs: int, count: int, seed: int) -> Tensor:
    """Images [n 1 16 16] in [-1, 1] of jets about their centre: square roots of energies."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, SIZE * SIZE)
    for image in images:
        number = int(torch.poisson(torch.tensor(PARTICLES), generator))
        angle, apart, share = torch.rand(3, generator=generator) * torch.tensor([6.2832, 3, 0.4])
        first = torch.rand(number, generator=generator) < 0.3 + share
        axis = torch.stack([angle.cos(), angle.sin()]) * (4 + apart) * (prongs - 1)
        places = torch.randn(number, 2, generator=generator) * WIDTH + first[:, None] * axis
        energies = torch.empty(number).exponential_(generator=generator)
        centre = (energies[:, None] * places).sum(0) / energies.sum()
        column, row = (places - centre + SIZE / 2).long().clamp(0, SIZE - 1).T
        image.index_add_(0, row * SIZE + column, energies)
    return (images / 2).sqrt().clamp_max(2).sub(1).view(count, 1, SIZE, SIZE)


def trained(images: Tensor, steps: int, latent: int = 8) -> ImageTokenizer:
    """An autoencoder of jets of one kind."""
    objective = member(NewTokenizer(Dense((128,)), Identity(latent)), SIZE)
    learn(objective, {"image": images}, steps)
    return objective.tokenizer


def scores(tokenizer: ImageTokenizer, known: Tensor, images: Tensor) -> dict[str, Tensor]:
    """How strange each picture is: by its error, by how far its latent lies from those of `known`,
    which were trained on (Mahalanobis), and by the mere sum of its pixels.
    """
    with torch.no_grad():
        error = (tokenizer.reconstruct(images) - images).square().mean((1, 2, 3))
        usual, found = (tokenizer.latents(part).flatten(1) for part in (known, images))
    away = found - usual.mean(0)
    distance = (away @ torch.linalg.inv(usual.T.cov()) * away).sum(1)
    return {"error": error, "latent": distance, "sum of pixels": images.sum((1, 2, 3))}


def told(own: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """How often the other kind is the stranger of two, by each score: AUROC, 0.5 by chance."""
    strange = torch.cat([torch.zeros(len(own["error"])), torch.ones(len(other["error"]))])
    return {name: float(roc_auc_score(strange, torch.cat([own[name], other[name]])))
            for name in own}  # fmt: skip


def main(root: Path = ROOT, steps: int = 800, count: int = 3000) -> Path:
    """Train one on each kind, and ask it for the other."""
    root.mkdir(parents=True, exist_ok=True)
    known = [jets(prongs, count, seed=prongs) for prongs in (1, 2)]
    unseen = [jets(prongs, max(100, count // 3), seed=10 + prongs) for prongs in (1, 2)]
    figure = Figure(figsize=(10, 5), layout="constrained")
    for kind, row in enumerate(figure.subplots(2, 5, width_ratios=[1, 1, 1, 1, 3])):
        tokenizer = trained(known[kind], steps)
        own, other = (scores(tokenizer, known[kind], unseen[each]) for each in (kind, 1 - kind))
        found = told(own, other)
        print(f"trained on {KINDS[kind]}, AUROC of {KINDS[1 - kind]}:",
              {name: round(value, 3) for name, value in found.items()})  # fmt: skip
        shown = torch.stack([unseen[kind][0], unseen[1 - kind][0]])
        with torch.no_grad():
            rebuilt = tokenizer.reconstruct(shown)
        names = ["own kind", "rebuilt", "the other", "rebuilt"]
        pictures = torch.stack([shown, rebuilt], 1).flatten(0, 1)
        for axis, image, name in zip(row, pictures, names, strict=False):
            axis.imshow(image[0], vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[], title=name)
        row[4].hist([own["error"], other["error"]], 40, label=[KINDS[kind], KINDS[1 - kind]])
        title = f"trained on {KINDS[kind]}: AUROC {found['error']:.2f}"
        row[4].set(title=title, xlabel="error")
        row[4].legend()
    figure.savefig(root / "jets.png")
    return root / "jets.png"


if __name__ == "__main__":
    tyro.cli(main)
