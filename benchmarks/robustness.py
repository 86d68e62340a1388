"""What attacks do to a digit's latents and to a classifier, what chains mend, what is no defence.

    python benchmarks/robustness.py

Latents of a variational autoencoder, attacked and corrected (Kuzina et al. 2022); a classifier of
digits behind it and behind a denoising one, attacked by who knows of them and by who does not. No
autoencoder, classifier or prior has seen what is attacked. Prints tables and exits with 1 where a
bar is missed.
"""

import argparse
import sys

from claims.learning import NORMAL, Figure, digits, trained

from calotype.tokenizers import Gaussian, ImageTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.corruptions import GaussianNoise
from calotype.tokenizers.terms import L2
from calotype.uses.classifiers import Convolutional, Logistic
from calotype.uses.representations import untrained
from calotype.uses.robustness import HMC, PGD, defended, prior_of
from calotype.uses.robustness.purifying import NOTHING
from calotype.uses.robustness.shifting import Chain, shifted

EPS = 0.15
"""Of the attack on latents."""
BOUNDS = (0.1, 0.2, 0.3)
"""Of those on classifiers."""


def of_latents(vae: ImageTokenizer, count: int) -> list[Figure]:
    """Attacked, and corrected."""
    learnt, _, held, _ = digits()
    images = held[:count]
    chain = Chain(NORMAL.build(), prior_of(vae, vae.latents(learnt)), HMC())
    found = shifted(vae, images, EPS, chain=chain)
    control = shifted(untrained(vae).requires_grad_(False), images, EPS).figures
    print(f"latents of {count} held-out digits, eps {EPS}\n")
    print("| | shift | error to the picture | to its reconstruction |\n|---|---|---|---|")
    rows = found.figures | {f"untrained, {name}": control[name] for name in ("noise", "attacked")}
    for name, row in rows.items():
        print(f"| {name} | {row.shift:.3f} | {row.error:.4f} | {row.apart:.4f} |")
    noisy, hit, mended = (found.figures[name] for name in ("noise", "attacked", "corrected"))
    back = found.restored
    assert back is not None
    times = hit.shift / noisy.shift
    return [
        Figure("latents: the attack's shift, of noise's", times, ">= 2", times >= 2,
               "untrained "
               f"{control['attacked'].shift / control['noise'].shift:.2f}"),
        Figure("chains: of the error that an attack adds, taken back", back["error"], ">= 0.5",
               back["error"] >= 0.5, f"{hit.error:.4f}, then {mended.error:.4f}; "
               f"{found.accepted:.0%} accepted"),
        Figure("chains: of what it adds to the distance from the clean reconstruction",
               back["apart"], ">= 0.5", back["apart"] >= 0.5,
               f"of the shift of latents {back['shift']:.2f}: {hit.shift:.3f}, then "
               f"{mended.shift:.3f}; noise {noisy.shift:.3f}"),
    ]  # fmt: skip


def of_classifiers(purifiers: dict[str, ImageTokenizer], count: int) -> list[Figure]:
    """Behind autoencoders."""
    learnt, labels, held, right = digits()
    figures = list[Figure]()
    for kind, spec in {"logistic": Logistic(), "convolutional": Convolutional()}.items():
        model = spec.learn(learnt, labels, 10)
        print(f"\na {kind} classifier, {count} held-out digits\n")
        print("| eps | behind | who knows of it | clean | noise | FGSM | PGD |")
        print("|---|---|---|---|---|---|---|")
        found = {eps: defended(model, purifiers, held[:count], right[:count], eps,
                               PGD(steps=40))[0] for eps in BOUNDS}  # fmt: skip
        for eps, told in found.items():
            for name, each in told.items():
                cells = " | ".join(f"{value:.3f}" for value in vars(each).values())
                print(f"| {eps} | {name} | {cells} |")
        first, last = found[BOUNDS[0]], found[BOUNDS[-1]]
        more = first["denoising"].fgsm - first[NOTHING].fgsm
        left = last["denoising"].adaptive
        figures += [
            Figure(f"{kind}: denoising seems to help, FGSM at {BOUNDS[0]}", more, ">= 0.1",
                   more >= 0.1, f"{first['denoising'].fgsm:.3f}, without {first[NOTHING].fgsm:.3f};"
                   f" who knows of it {first['denoising'].adaptive:.3f}, "
                   f"without {first[NOTHING].adaptive:.3f}"),
            Figure(f"{kind}: and is no defence, who knows of it at {BOUNDS[-1]}", left, "<= 0.1",
                   left <= 0.1, f"clean {last['denoising'].clean:.3f}"),
        ]  # fmt: skip
    return figures


def main() -> int:
    """Measure, print; how many bars were missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="of each autoencoder")
    parser.add_argument("--count", type=int, default=360, help="digits that are attacked")
    asked = parser.parse_args()
    learnt = digits()[0]
    vae = trained(Gaussian(8, kl_weight=1.0, keep_prior=True), learnt, NORMAL, asked.steps)
    dae = trained(Identity(32), learnt, L2(), asked.steps, corruption=GaussianNoise(0.6))
    purifiers = {"variational": vae, "denoising": dae, "untrained": untrained(dae)}
    for each in purifiers.values():
        each.eval().requires_grad_(False)
    figures = of_latents(vae, asked.count) + of_classifiers(purifiers, asked.count)
    print("\n| figure | measured | bar | beside |\n|---|---|---|---|")
    for figure in figures:
        print(figure.row())
    return sum(not figure.holds for figure in figures)


if __name__ == "__main__":
    sys.exit(main() > 0)
