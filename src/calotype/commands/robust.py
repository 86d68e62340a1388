"""What attacks do to a tokenizer's latents, what mends them, and what is no defence."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from calotype.commands.attacked import Attacked, Wanted, on_classifier, on_latents, write_page
from calotype.commands.flags import check_counts
from calotype.commands.labelled import check_classes, read_pictures
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.likelihood import kept_likelihood
from calotype.training.agreement import by_main
from calotype.training.description import describe
from calotype.training.devices import Computation, Precision, computing
from calotype.training.files import write_text
from calotype.training.images import sent_images
from calotype.training.progress import say
from calotype.uses.classifiers import Classifier, Convolutional
from calotype.uses.probing import halves
from calotype.uses.robustness.attacks import PGD, check_eps
from calotype.uses.robustness.hmc import HMC
from calotype.uses.robustness.shifting import Goal, OfLatents

LEAST = 16
"""Pictures."""


@dataclass(frozen=True)
class Robust(Computation):
    """What small changes of pictures do: to a tokenizer's latents, and back by Hamiltonian Monte
    Carlo in them; to a classifier, and behind the tokenizer, against attackers who know of it.
    Always beside random noise of the same size and the same tokenizer untrained.
    """

    tokenizer: tyro.conf.Positional[str]
    """Folder of a tokenizer, ours or a stock one, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """Pictures, best such as it was not trained on. Where captions are classes, such as sub-folders
    give them, a classifier is trained and attacked too."""
    beside: tuple[str, ...] = ()
    """Other tokenizers of pictures of the same size that purify, such as a denoising one."""
    eps: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Bounds of the attacks: how far a value may go, black to white being 1."""
    goal: Goal = field(default_factory=OfLatents)
    """What attacks on the tokenizer move."""
    attack: PGD = field(default_factory=PGD)
    hmc: HMC = field(default_factory=HMC)
    """How latents are corrected, where they may be any numbers."""
    classifier: Classifier = field(default_factory=Convolutional)
    """What is trained on pixels, on the pictures that are not attacked."""
    attacked: int = 128
    """Pictures that are, at most: of those that no classifier has seen."""
    held_out: float = 0.25
    """Part of the pictures, of each class, that no classifier sees."""
    count: int | None = 4000
    """Pictures, from all over the data; of a stream the first. None: all."""
    size: int | None = None
    """Pixels a side; None: as the tokenizer was trained, or 256 where it does not say."""
    precision: Precision = field(default="fp32", kw_only=True)
    """Of the networks' products. Chains compare energies, which are differences of large
    numbers."""
    batch_size: int = 64
    """Pictures at a time."""
    out: Path = Path("robustness.html")
    """The page; its figures are written beside it, as .json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "size", "batch_size", attacked=2, count=LEAST)
        if not self.eps:
            raise ValueError("--eps: name one bound or more")
        for eps in self.eps:
            check_eps("--eps", eps)
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held-out is {self.held_out}: it must lie between 0 and 1")
        if self.out.suffix != ".html":
            raise ValueError(f"--out is {self.out}: name a page, such as robustness.html")


def robust(options: Robust) -> Path:
    """Attack, mend, print tables and write the page; returns it. Of several processes the main one
    does.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, or too few pictures.
    """
    quiet()
    return by_main(partial(_robust, options))


def _robust(options: Robust) -> Path:
    options.warn_of_emulation()
    tokenizer = _loaded(options, options.tokenizer)
    size = options.size or tokenizer.sample_size
    tokenizer.check(size)
    purifiers = {options.tokenizer: tokenizer}
    purifiers |= {path: _loaded(options, path) for path in options.beside}
    for path, other in purifiers.items():
        other.check(size)
        if other.mode != tokenizer.mode:
            raise ValueError(
                f"--beside {path} takes {other.mode}, and {options.tokenizer} {tokenizer.mode}: "
                "name tokenizers of the same kind of pictures"
            )
    transform = Transform(CenterCrop(size), mode=tokenizer.mode)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    networks = [each for one in purifiers.values() for each in one.networks]
    with computing(options.precision, options.place, *networks):
        read = _read(options, transform)
        wanted = Wanted(options.eps, options.goal, options.attack, options.hmc, options.classifier,
                        options.batch_size)  # fmt: skip
        # The adaptive attack's figure stands first: whatever else is told, it is what counts.
        found = [*on_classifier(wanted, purifiers, read)]
        found.append(on_latents(wanted, tokenizer, kept_likelihood(options.tokenizer), read))
    lines = [f"{options.tokenizer}, {len(read.images)} of {read.of} pictures of {size} pixels. "
             "Bounds eps are parts of the way from black to white."]  # fmt: skip
    write_page(options.out, lines, found)
    figures: dict[str, Any] = {name: each for part in found for name, each in part.figures.items()}
    how = {"goal": describe(options.goal), "attack": describe(options.attack),
           "hmc": describe(options.hmc), "trained": describe(options.classifier)}  # fmt: skip
    said = {"artifact": options.tokenizer, "pictures": len(read.images), "size": size, **how}
    write_text(options.out.with_suffix(".json"), json.dumps(said | figures, indent=1) + "\n")
    return options.out


def _loaded(options: Robust, path: str) -> ImageTokenizer:
    found = ImageTokenizer.load(path)
    return found.to(options.place).eval().requires_grad_(False)


def _read(options: Robust, transform: Transform) -> Attacked:
    """Pictures to learn from and to attack.

    Raises:
        ValueError: there are too few.
    """
    pixels, said = read_pictures(options.data.build(), transform, options.count, options.batch_size)
    if len(said) < LEAST:
        raise ValueError(f"data has {len(said)} pictures: {LEAST} or more are needed")
    classes, labels = _labels(said)
    learnt, held = halves(labels, options.held_out, options.attack.seed)
    # They may be sorted by what is in them.
    held = np.sort(np.random.default_rng(options.attack.seed).permutation(held)[: options.attacked])
    images = sent_images(pixels, options.place)
    known = torch.from_numpy(labels).to(options.place)
    return Attacked(images[held], known[held], images[learnt], known[learnt], classes, len(said))


def _labels(said: list[str]) -> tuple[list[str], np.ndarray]:
    """Classes by number; none where captions are no classes, which is told."""
    try:
        check_classes(said, "data")
    except ValueError as error:
        say(f"no classifier is attacked: {error}")
        return [], np.zeros(len(said), np.int64)
    classes, labels = np.unique(said, return_inverse=True)
    if len(classes) < 2:
        say(f"no classifier is attacked: all pictures are of one class, {classes[0]}")
        return [], labels
    return classes.tolist(), labels
