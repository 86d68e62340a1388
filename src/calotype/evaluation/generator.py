"""Everything that is measured of a generator: pictures, and what it draws for their captions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics.multimodal.clip_score import CLIPScore

from calotype.data.scenes import Scene
from calotype.evaluation.alignment import alignment
from calotype.evaluation.distances import (
    NEIGHBOURS,
    Memorisation,
    diversity,
    frechet,
    nearest,
    precision_recall,
)
from calotype.evaluation.features import Features
from calotype.evaluation.protocol import Digest, eight_bits
from calotype.evaluation.tokenizer import Evaluation, Judges
from calotype.training import Batch

Draw = Callable[[Sequence[str], Sequence[int]], Iterator[Float[Tensor, "b 3 H W"]]]
"""Batches of images in [-1, 1] of some prompts, one for each and its seed."""


@dataclass(frozen=True)
class Reference:
    """Real pictures that a generator is measured against."""

    batches: Iterable[Batch]
    """Pictures with captions, which are the prompts."""
    scenes: Sequence[Scene] | None = None
    """What each caption says, where that is known."""
    training: Iterable[Batch] | None = None
    """Pictures it was trained on: does it repeat them?"""
    repeats: int = 1
    """Images drawn of each prompt; from 2 on their diversity is measured."""


@torch.no_grad()
def evaluate_generator(
    draw: Draw, reference: Reference, judges: Judges, seed: int = 0,
    clip: CLIPScore | None = None, device: torch.device | None = None,
    sampling: dict[str, Any] | None = None,
) -> Evaluation:  # fmt: skip
    """Draw every caption, image i with seed + i, and measure.

    Raises:
        ValueError: there are too few pictures, or no network to judge them by.
    """
    features = judges.features
    if features is None:
        raise ValueError("a generator is measured by features: choose a network for them")
    real, captions, digest, size = _real(reference.batches, features, device)
    if len(captions) <= NEIGHBOURS:
        raise ValueError(f"{len(captions)} pictures to measure: give more than {NEIGHBOURS}")
    prompts = [caption for caption in captions for _ in range(reference.repeats)]
    fake, images = [], []
    for batch in draw(prompts, range(seed, seed + len(prompts))):
        drawn, first = eight_bits(batch), sum(map(len, images))
        images.append(drawn)
        fake.append(features(drawn.to(device)).cpu())
        if clip is not None:
            clip.update(drawn.to(device), prompts[first : first + len(drawn)])
    drawn, found = torch.cat(images), torch.cat(fake)
    figures = _fidelity(real, found)
    figures["clip_score"] = None if clip is None else clip.compute().item()
    figures["diversity"] = diversity(found, prompts) if reference.repeats > 1 else None
    if reference.scenes is not None:
        figures |= _aligned(drawn, [s for s in reference.scenes for _ in range(reference.repeats)])
    if reference.training is not None:
        figures |= _memorised(real, found, _features(reference.training, features, device))
    figures = {name: value for name, value in figures.items() if value is not None}
    protocol = replace(judges.protocol(len(captions), size, digest, seed), sampling=sampling)
    return Evaluation(_rounded(figures), protocol, examples=(drawn[:16], drawn[:16]))


def _real(
    batches: Iterable[Batch], features: Features, device: torch.device | None
) -> tuple[Tensor, list[str], Digest, int]:
    found, captions, digest, size = [], [], Digest(), 0
    for batch in batches:
        real = eight_bits(batch["image"])
        digest.add(real)
        found.append(features(real.to(device)).cpu())
        captions += batch.get("caption", [""] * len(real))
        size = real.shape[-1]
    return torch.cat(found), captions, digest, size


def _features(
    batches: Iterable[Batch], features: Features, device: torch.device | None
) -> Float[Tensor, "n d"]:
    return torch.cat([features(eight_bits(b["image"]).to(device)).cpu() for b in batches])


def _fidelity(real: Tensor, fake: Tensor) -> dict[str, Any]:
    precision, recall = precision_recall(real, fake)
    return {"frechet": frechet(real, fake), "precision": precision, "recall": recall}


def _aligned(images: UInt8[Tensor, "n 3 H W"], scenes: Sequence[Scene]) -> dict[str, Any]:
    checked = alignment(images.float() / 127.5 - 1, scenes)
    return {"all_factors_right": checked.all_right, "factors_right": checked.accuracy}


def _memorised(real: Tensor, fake: Tensor, training: Tensor) -> dict[str, Any]:
    found = Memorisation(nearest(fake, training), nearest(real, training))
    return {"nearest_training_ratio": found.ratio, "nearer_than_99_percent_of_real": found.copies}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value
