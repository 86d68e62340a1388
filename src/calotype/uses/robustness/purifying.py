"""Classifiers behind a tokenizer, and what attackers leave of them who know of it or do not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.tokenizers import ImageTokenizer
from calotype.uses.classifiers import is_right
from calotype.uses.robustness.attacks import (
    PGD,
    Harm,
    Images,
    Labels,
    fgsm,
    margin,
    noise,
    pgd,
    surprise,
)
from calotype.uses.robustness.correcting import rebuilt

NOTHING = "nothing"
"""What stands before a bare classifier."""
GAINED = 0.05
"""Part of the pictures by which a defence has to be better than none."""


class Purified(nn.Module):
    """A classifier that sees what a tokenizer makes of pictures, with gradients through both
    (Samangouei et al. 2018; Song et al. 2018): what an attacker has who knows the whole of it.
    """

    def __init__(self, tokenizer: ImageTokenizer, classifier: nn.Module) -> None:
        super().__init__()
        self.tokenizer, self.classifier = tokenizer.eval(), classifier.eval()

    def forward(self, images: Images) -> Float[Tensor, "b k"]:
        """Logits of pictures in [-1, 1]."""
        return self.classifier(rebuilt(self.tokenizer, images))


@dataclass(frozen=True)
class Defended:
    """Parts of 1 that are told right, of pictures that nothing was trained on."""

    adaptive: float
    """Under each of the attacks here, and the one that has the gradients of all of it: the figure
    that counts, and still only a bound from above (Athalye et al. 2018; Tramer et al. 2020)."""
    clean: float
    noise: float
    """With random noise within the same bound."""
    fgsm: float
    """With one step against the bare classifier."""
    pgd: float
    """With many steps against the bare classifier."""


def defended(
    classifier: nn.Module, purifiers: Mapping[str, ImageTokenizer], images: Images, labels: Labels,
    eps: float, how: PGD | None = None, batch_size: int = 128,
) -> tuple[dict[str, Defended], dict[str, Images]]:  # fmt: skip
    """What is told right by a classifier and by the same behind each purifier, and the pictures
    that it is shown: attacked for the bare classifier by name, and for each by the name of it.

    Raises:
        ValueError: eps is no bound.
    """
    how = how or PGD()
    tried = {
        "clean": images,
        "noise": noise(images, eps, how.seed),
        "fgsm": attacked(lambda some, right, seed: fgsm(surprise(classifier, right), some, eps),
                         images, labels, batch_size),
    }  # fmt: skip
    tried["pgd"] = _by_pgd(classifier, images, labels, eps, how, batch_size)
    models: dict[str, nn.Module] = {NOTHING: classifier}
    models |= {name: Purified(each, classifier) for name, each in purifiers.items()}
    told, seen = dict[str, Defended](), dict(tried)
    for name, model in models.items():
        adaptive = tried["pgd"]
        if name != NOTHING:
            adaptive = seen[name] = _by_pgd(model, images, labels, eps, how, batch_size)
        right = {kind: is_right(model, each, labels, batch_size) for kind, each in tried.items()}
        every = torch.stack([*right.values(), is_right(model, adaptive, labels, batch_size)])
        parts = {kind: each.mean().item() for kind, each in right.items()}
        told[name] = Defended(every.amin(0).mean().item(), **parts)
    return told, seen


def verdict(name: str, found: Defended, bare: Defended, chance: float) -> str:
    """What may be said of a defence, in a line; `chance` is told right by who always says the
    commonest class, and no attack takes it from a classifier that sees nothing.
    """
    more = found.adaptive - bare.adaptive
    said = (f"{name}: {found.clean:.3f} clean, {found.fgsm:.3f} by FGSM, {found.adaptive:.3f} by "
            "who knows of it")  # fmt: skip
    if found.adaptive < chance + GAINED:
        return f"{said}, {chance:.3f} by chance: no defence"
    if more < GAINED:
        return f"{said}, {bare.adaptive:.3f} without it: no defence"
    return (
        f"{said}, {bare.adaptive:.3f} without it: of {bare.clean - bare.adaptive:.3f} that the "
        f"attack takes it holds {more:.3f}, against the attacks that were tried"
    )


def attacked(
    attack: Callable[[Images, Labels, int], Images], images: Images, labels: Labels,
    batch_size: int,
) -> Images:  # fmt: skip
    """An attack, some pictures at a time, each with a seed of its own."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([attack(some, right, place) for place, (some, right) in enumerate(parts)])


def _by_pgd(
    model: nn.Module, images: Images, labels: Labels, eps: float, how: PGD, batch_size: int
) -> Images:
    def attack(some: Images, right: Labels, place: int) -> Images:
        harm: Harm = margin(model, right)
        return pgd(harm, some, eps, replace(how, seed=how.seed + place))

    return attacked(attack, images, labels, batch_size)
