"""What a classifier of digits gains by pictures that are made of the few that there are.

    python benchmarks/augmentation.py

Of one digit six examples, chosen anew in five draws; of the others all that are there to be learnt
from. For each draw a variational autoencoder is trained on these and on nothing else, and rare ones
are made as many as the others are: repeated, mixed in pixels, mixed in latents (Chawla et al.
2002). Beside: mixed in latents of one autoencoder that has seen all. Prints a table and exits with
1 where a bar is missed.
"""

import argparse
import sys
from collections.abc import Mapping

import torch
from claims.learning import NORMAL, Figure, digits, trained

from calotype.tokenizers import Gaussian, ImageTokenizer
from calotype.uses.augmenting import Draw, Gained, judged, methods, over
from calotype.uses.classifiers import Classifier, Convolutional, Logistic
from calotype.uses.resampling import Interpolation

WAY = Interpolation()


def autoencoder(images: torch.Tensor, steps: int, seed: int) -> ImageTokenizer:
    """A variational one of these and nothing else."""
    spec = Gaussian(8, kl_weight=1.0, keep_prior=True)
    return trained(spec, images, NORMAL, steps, seed=seed).eval().requires_grad_(False)


def draws(rare: int, examples: int, count: int) -> dict[int, Draw]:
    """Choices of the rare digit's examples, all judged by the same held-out digits."""
    images, labels, held, right = digits()
    found = {}
    for seed in range(count):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        own = order[labels[order] == rare][:examples]
        kept = torch.cat([(labels != rare).nonzero()[:, 0], own])
        found[seed] = Draw(images[kept], labels[kept], held, right)
    return found


def measured(
    every: Mapping[int, Draw], own: Mapping[int, ImageTokenizer], seen: ImageTokenizer, rare: int,
    classifier: Classifier,
) -> dict[str, Gained]:  # fmt: skip
    """By each way of making more, with the autoencoder of each draw."""
    parts: dict[str, list[tuple[float, float]]] = {}
    for seed, draw in every.items():
        makers = methods(own[seed], WAY)
        makers["mixed latents of one that has seen all"] = methods(seen, WAY)["mixed latents"]
        others = (len(draw.labels) - (draw.labels == rare).sum().item()) // 9
        for name, make in makers.items():
            told = judged(draw, {rare}, make, others, 10, classifier, seed)
            parts.setdefault(name, []).append(told)
    return {name: over(some) for name, some in parts.items()}


def main() -> int:
    """Measure, print; how many bars were missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="of each autoencoder")
    parser.add_argument("--rare", type=int, default=8, help="the digit")
    parser.add_argument("--examples", type=int, default=6)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--convolutional", action="store_true", help="another classifier, too")
    asked = parser.parse_args()
    every = draws(asked.rare, asked.examples, asked.draws)
    seen = autoencoder(digits()[0], asked.steps, 0)
    own = {seed: autoencoder(draw.images, asked.steps, seed) for seed, draw in every.items()}
    figures = list[Figure]()
    kinds: dict[str, Classifier] = {"logistic": Logistic()}
    if asked.convolutional:
        kinds["convolutional"] = Convolutional()
    for kind, spec in kinds.items():
        found = measured(every, own, seen, asked.rare, spec)
        print(f"\na {kind} classifier: digit {asked.rare} by {asked.examples} examples\n")
        print("| made by | recall of it | overall |\n|---|---|---|")
        for name, each in found.items():
            print(f"| {name} | {_said(each.recall)} | {_said(each.overall)} |")
        latent, again = found["mixed latents"], found["oversampling"]
        figures.append(Figure(
            f"{kind}: recall by mixed latents", latent.recall[0], f"> {again.recall[0]:.3f}",
            latent.recall[0] > again.recall[0],
            f"oversampling; none {found['none'].recall[0]:.3f}, mixed pixels "
            f"{found['mixed pixels'].recall[0]:.3f}"))  # fmt: skip
    print("\n| figure | measured | bar | beside |\n|---|---|---|---|")
    for figure in figures:
        print(figure.row())
    return sum(not figure.holds for figure in figures)


def _said(told: tuple[float, float]) -> str:
    return f"{told[0]:.3f} +- {told[1]:.3f}"


if __name__ == "__main__":
    sys.exit(main() > 0)
