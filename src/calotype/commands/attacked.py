"""The parts of a page on attacks: what they do to latents and to classifiers, in tables, figures
and pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from rich.console import Console
from rich.table import Table
from torch import Tensor

from calotype.pages.exploration import Shown, Strip, Tabled, write_exploration
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms.likelihoods import Likelihood
from calotype.training.progress import say
from calotype.uses.classifiers import Classifier, Images, is_right
from calotype.uses.representations import untrained
from calotype.uses.robustness.attacks import PGD
from calotype.uses.robustness.correcting import (
    is_correctable,
    likelihood_for,
    prior_of,
    rebuilt,
)
from calotype.uses.robustness.hmc import HMC
from calotype.uses.robustness.purifying import NOTHING, defended, verdict
from calotype.uses.robustness.shifting import Chain, Goal, Shifted, shifted

SHOWN = 8
"""Pictures of each kind on the page."""
CALIBRATED = 256
"""Clean pictures by which deviations are estimated where a tokenizer has none of its own."""
UNTRAINED = "untrained"
WARNING = (
    "What is told right by who knows of the tokenizer is a bound from above: a better attack may "
    "leave less. Chains were not attacked by who knows of them."
)

COLUMNS = (
    "Parts of 1 that are told right. Who knows of it has the gradients of tokenizer and "
    "classifier, through codes straight through, and what is told right is so under every attack "
    "here. FGSM and PGD have those of the classifier alone: what stands there says nothing of a "
    "defence."
)


@dataclass(frozen=True)
class Wanted:
    """How it is done, as the command's options have it."""

    eps: tuple[float, ...]
    goal: Goal
    attack: PGD
    hmc: HMC
    classifier: Classifier
    batch_size: int


@dataclass(frozen=True)
class Attacked:
    """Pictures that are attacked, and those that something is learnt from; in [-1, 1]."""

    images: Float[Tensor, "n c H W"]
    labels: Int64[Tensor, " n"]
    learnt: Float[Tensor, "m c H W"]
    learnt_labels: Int64[Tensor, " m"]
    classes: list[str]
    """None: captions are no classes."""
    of: int
    """Pictures that were read."""


@dataclass(frozen=True)
class Told:
    """A part of the page, and its figures."""

    title: str
    lines: Sequence[str]
    table: Tabled
    strips: Sequence[Strip]
    figures: dict[str, Any] = field(default_factory=dict)

    def show(self) -> None:
        """Print it."""
        found = Table(title=self.title, title_justify="left")
        for column in self.table.columns:
            found.add_column(column, justify="left" if column == self.table.columns[0] else "right")
        for row in self.table.rows:
            found.add_row(*row)
        Console().print(found)
        for line in self.lines:
            print(line)


def write_page(path: Path, lines: Sequence[str], parts: Sequence[Told]) -> None:
    """All parts, on one page."""
    shown = [Shown(part.title, part.lines, part.strips, table=part.table) for part in parts]
    write_exploration(path, "What attacks do", [*lines, WARNING], None, shown)


def on_latents(
    wanted: Wanted, tokenizer: ImageTokenizer, own: Likelihood | None, read: Attacked
) -> Told:
    """What attacks do to latents, and what chains mend of it."""
    chain, lines = _chain(wanted, tokenizer, own, read)
    attack = partial(shifted, images=read.images, goal=wanted.goal, how=wanted.attack,
                     batch_size=wanted.batch_size)  # fmt: skip
    control, found = untrained(tokenizer).requires_grad_(False), dict[float, Shifted]()
    rows, strips, figures = list[tuple[str, ...]](), list[Strip](), dict[str, Any]()
    for eps in wanted.eps:
        each = found[eps] = attack(tokenizer, eps=eps, chain=chain)
        other = attack(control, eps=eps).figures
        every = each.figures | {
            f"{UNTRAINED}, {name}": other[name] for name in ("noise", "attacked")
        }
        rows += [(f"{name}, eps {eps:g}", f"{row.shift:.3f}", f"{row.error:.4f}",
                  f"{row.apart:.4f}") for name, row in every.items()]  # fmt: skip
        figures[f"{eps:g}"] = {name: asdict(row) for name, row in every.items()} | {
            "accepted": each.accepted, "restored": each.restored}  # fmt: skip
        lines.append(_said(eps, each))
        strips += _pictures(eps, each)
    columns = ("", "shift of latents", "error to the picture", "to its reconstruction")
    lines.append(
        "Shifts are parts of the mean distance of two pictures' latents; errors are mean squares, "
        "black to white being 1. Noise is as large as the bound allows. The untrained tokenizer "
        "says what its architecture does."
    )
    told = Told("Latents", lines, Tabled(columns, rows), strips, {"latents": figures})
    told.show()
    return told


def _chain(
    wanted: Wanted, tokenizer: ImageTokenizer, own: Likelihood | None, read: Attacked
) -> tuple[Chain | None, list[str]]:
    if not is_correctable(tokenizer):
        kind = type(tokenizer.bottleneck).__name__
        return None, [f"Nothing is corrected: latents of a {kind} are not any numbers."]
    # From all over: what is learnt from stands class by class.
    drawn = torch.Generator().manual_seed(0)
    some = read.learnt[torch.randperm(len(read.learnt), generator=drawn)[:CALIBRATED]]
    each = wanted.batch_size
    likelihood = own.to(some.device) if own is not None else likelihood_for(tokenizer, some, each)
    z = _by_parts(lambda part: tokenizer.latents(part).float(), some, each)
    prior = prior_of(tokenizer, z)
    known = [
        name
        for name, there in (
            ("likelihood", own is not None),
            ("prior", tokenizer.bottleneck.has_prior),
        )
        if there
    ]
    by = f"the {' and the '.join(known)} that it was trained by" if known else "estimates alone"
    line = f"Latents are corrected by {wanted.hmc.steps} proposals of chains, with {by}."
    return Chain(likelihood, prior, wanted.hmc), [line]


@torch.no_grad()
def _by_parts(make: Callable[[Images], Tensor], images: Images, batch_size: int) -> Tensor:
    return torch.cat([make(part) for part in images.split(batch_size)])


def _said(eps: float, found: Shifted) -> str:
    clean, noisy, attacked = (found.figures[name] for name in ("clean", "noise", "attacked"))
    said = (f"eps {eps:g}: the attack moves latents {attacked.shift / max(noisy.shift, 1e-9):.1f} "
            f"times as far as noise, and the error is {attacked.error / max(clean.error, 1e-9):.1f}"
            " times as large.")  # fmt: skip
    if (back := found.restored) is not None:
        said += (f" Chains take back {back['error']:.0%} of the error and {back['shift']:.0%} of "
                 f"the shift; {found.accepted:.0%} of proposals were accepted.")  # fmt: skip
    return said


def _pictures(eps: float, found: Shifted) -> list[Strip]:
    rows = {"clean": found.seen["clean"], "attacked": found.seen["attacked"],
            "clean, decoded": found.decoded["clean"], "noise, decoded": found.decoded["noise"],
            "attacked, decoded": found.decoded["attacked"]}  # fmt: skip
    if "corrected" in found.decoded:
        rows["attacked, corrected"] = found.decoded["corrected"]
    return [Strip(f"eps {eps:g}: {name}", each[:SHOWN].cpu()) for name, each in rows.items()]


def on_classifier(
    wanted: Wanted, purifiers: Mapping[str, ImageTokenizer], read: Attacked
) -> list[Told]:
    """What attacks do to a classifier, and to the same behind tokenizers; nothing where pictures
    are of no classes.
    """
    if not read.classes:
        return []
    model = wanted.classifier.learn(read.learnt, read.learnt_labels, len(read.classes))
    right = is_right(model, read.images, read.labels, wanted.batch_size).mean().item()
    most = (read.labels.bincount().max() / len(read.labels)).item()
    say(f"classifier of {len(read.classes)} classes: {right:.3f} told right")
    control = {UNTRAINED: untrained(next(iter(purifiers.values()))).requires_grad_(False)}
    rows, lines, strips = list[tuple[str, ...]](), list[str](), list[Strip]()
    figures: dict[str, Any] = {}
    for eps in wanted.eps:
        told, seen = defended(model, {**purifiers, **control}, read.images, read.labels, eps,
                              wanted.attack, wanted.batch_size)  # fmt: skip
        rows += [(f"{name}, eps {eps:g}", *(f"{value:.3f}" for value in asdict(each).values()))
                 for name, each in told.items()]  # fmt: skip
        lines += [f"eps {eps:g}, {verdict(name, each, told[NOTHING], most)}." for name, each
                  in told.items() if name in purifiers]  # fmt: skip
        figures[f"{eps:g}"] = {name: asdict(each) for name, each in told.items()}
        strips += _purified(eps, purifiers, seen, wanted.batch_size)
    columns = ("behind", "who knows of it", "clean", "noise", "FGSM", "PGD")
    lines.append(COLUMNS)
    table = Tabled(columns, rows)
    part = Told("A classifier", lines, table, strips, {"classifier": figures, "told_right": right,
                                                       "classes": len(read.classes)})  # fmt: skip
    part.show()
    return [part]


def _purified(
    eps: float, purifiers: Mapping[str, ImageTokenizer], seen: Mapping[str, Images],
    batch_size: int,
) -> list[Strip]:  # fmt: skip
    found = [Strip(f"eps {eps:g}: attacked by PGD, who knows the classifier alone",
                   seen["pgd"][:SHOWN].cpu())]  # fmt: skip
    for name, each in purifiers.items():
        by = {"PGD": seen["pgd"], "who knows of it": seen[name]}
        found += [Strip(f"eps {eps:g}: {who}, behind {name}",
                        _by_parts(partial(rebuilt, each), images[:SHOWN], batch_size).cpu())
                  for who, images in by.items()]  # fmt: skip
    return found
