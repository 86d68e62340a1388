"""Small changes of pictures that do as much harm as they can: each value within a bound, as parts
of the way from black to white (eps of 0.03 is about 8 of 255 levels).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from calotype.uses.classifiers import Images, Labels

Harm = Callable[[Images], Float[Tensor, " b"]]
"""What a change does to each picture, to be made as large as possible; with gradients to pictures,
in [-1, 1]."""
Classify = Callable[[Images], Float[Tensor, "b k"]]
"""Logits of pictures in [-1, 1]."""


@dataclass(frozen=True)
class PGD:
    """Projected ascent along the sign of the gradient (Madry et al. 2018, section 2.1), from places
    within the bound that are drawn; of all that was met the worst is kept.
    """

    steps: int = 40
    """Of each ascent."""
    step_size: float = 0.1
    """How far a step goes, in parts of the bound."""
    restarts: int = 2
    """Ascents, each from a place of its own."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--attack.{name} is {value}: it must be at least 1")
        if not self.step_size > 0:
            raise ValueError(f"--attack.step-size is {self.step_size}: it must be above 0")


def check_eps(name: str, eps: float) -> None:
    """Refuse what is no bound.

    Raises:
        ValueError: it does not lie in (0, 1].
    """
    if not 0 < eps <= 1:
        raise ValueError(f"{name} is {eps}: it lies above 0 and up to 1, black to white")


def pgd(harm: Harm, images: Images, eps: float, how: PGD | None = None) -> Images:
    """Pictures in [-1, 1], no value further than eps from those that are given, that do the most
    harm that was found; at least as much as these. Networks' own gradients stay as they are.

    Raises:
        ValueError: eps is no bound.
    """
    check_eps("eps", eps)
    how = how or PGD()
    chance = torch.Generator().manual_seed(how.seed)
    best, most = images.detach(), _value(harm, images)
    for _ in range(how.restarts):
        away = 2 * torch.rand(images.shape, generator=chance).to(images) - 1
        changed = _within(images + 2 * eps * away, images, eps)
        for _ in range(how.steps):
            value, slope = _slope(harm, changed)
            best, most = _worse(best, most, changed, value)
            changed = _within(changed + 2 * eps * how.step_size * slope.sign(), images, eps)
        best, most = _worse(best, most, changed, _value(harm, changed))
    return best


def fgsm(harm: Harm, images: Images, eps: float) -> Images:
    """One step along the sign of the gradient, as long as the bound (Goodfellow et al. 2015).

    Raises:
        ValueError: eps is no bound.
    """
    check_eps("eps", eps)
    return _within(images + 2 * eps * _slope(harm, images)[1].sign(), images, eps)


def noise(images: Images, eps: float, seed: int = 0) -> Images:
    """The control: each value as far away as the bound allows, up or down by chance.

    Raises:
        ValueError: eps is no bound.
    """
    check_eps("eps", eps)
    drawn = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    return _within(images + 2 * eps * (2 * drawn.round() - 1).to(images), images, eps)


def moved(represent: Callable[[Images], Tensor], images: Images) -> Harm:
    """How far what is made of pictures goes from what was made of these: the Euclidean distance of
    latents (Kuzina et al. 2022, section 3) or of reconstructions.
    """
    with torch.no_grad():
        there = represent(images).flatten(1)
    return lambda changed: torch.linalg.vector_norm(represent(changed).flatten(1) - there, dim=1)


def surprise(classify: Classify, labels: Labels) -> Harm:
    """A classifier's cross-entropy, in nats."""
    return lambda images: cross_entropy(classify(images), labels, reduction="none")


def margin(classify: Classify, labels: Labels) -> Harm:
    """By how much the largest logit of another class is above that of the right one: above 0 the
    picture is told wrong (Carlini & Wagner 2017, f6).
    """

    def harm(images: Images) -> Float[Tensor, " b"]:
        logits = classify(images)
        own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
        return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]

    return harm


@torch.no_grad()
def _value(harm: Harm, images: Images) -> Float[Tensor, " b"]:
    return harm(images)


@torch.enable_grad()
def _slope(harm: Harm, images: Images) -> tuple[Float[Tensor, " b"], Images]:
    asked = images.detach().clone().requires_grad_()
    value = harm(asked)
    (slope,) = torch.autograd.grad(value.sum(), [asked])
    return value.detach(), slope


def _within(changed: Images, images: Images, eps: float) -> Images:
    low, high = (images - 2 * eps).clamp_min(-1), (images + 2 * eps).clamp_max(1)
    return torch.minimum(torch.maximum(changed, low), high).detach()


def _worse(
    best: Images, most: Float[Tensor, " b"], changed: Images, value: Float[Tensor, " b"]
) -> tuple[Images, Float[Tensor, " b"]]:
    more = value > most
    return torch.where(more[:, None, None, None], changed, best), torch.where(more, value, most)
