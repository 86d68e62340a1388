"""Everything that is measured of a generator: pictures, and what it draws for their captions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from calotype.data.drawn.scenes import Scene
from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.alignment import Alignment, check
from calotype.evaluation.distances import (
    NEIGHBOURS,
    Memorisation,
    Nearest,
    diversity,
    frechet,
    precision_recall,
    too_few,
)
from calotype.evaluation.features import Features
from calotype.evaluation.prompts import ClipScore
from calotype.evaluation.protocol import Digest, rounded
from calotype.evaluation.speed import speed
from calotype.evaluation.tokenizer import Evaluation, Judges
from calotype.training import Batch
from calotype.training.images import scaled
from calotype.training.precision import Name

Draw = Callable[[Sequence[str], Sequence[int]], Iterator[Float[Tensor, "b c H W"]]]
"""Batches of images in [-1, 1] of some prompts, one for each and its seed."""
See = Callable[[UInt8[Tensor, "b c H W"]], Float[Tensor, "b d"]]
"""Features of images, and on the device where these are."""
CPU = torch.device("cpu")
SHOWN = 16
"""Images that are kept to be looked at."""


@dataclass(frozen=True)
class Reference:
    """Real pictures that a generator is measured against."""

    batches: Iterable[Batch]
    """Pictures with captions, which are the prompts."""
    prompted: bool = True
    """Whether the generator heeds prompts: without, nothing is said about how."""
    scenes: Sequence[Scene] | None = None
    """What each caption says, where that is known."""
    training: Iterable[Batch] | None = None
    """Pictures it was trained on: does it repeat them?"""
    repeats: int = 1
    """Images drawn of each prompt; from 2 on their diversity is measured."""


@dataclass
class _Seen:
    """Of a set of images."""

    features: Float[Tensor, "n d"]
    captions: list[str]
    digest: str
    size: int


@dataclass
class _Drawn:
    """What was drawn, gathered batch by batch; of the images themselves only the first are kept."""

    features: list[Tensor] = field(default_factory=list)
    verdicts: list[dict[str, bool]] = field(default_factory=list)
    clip_scores: list[float] = field(default_factory=list)
    examples: list[Tensor] = field(default_factory=list)
    count: int = 0


@torch.no_grad()
def evaluate_generator(
    draw: Draw, reference: Reference, judges: Judges, seed: int = 0,
    clip: ClipScore | None = None, sampling: dict[str, Any] | None = None,
    precision: Name = "fp32", device: torch.device = CPU,
) -> Evaluation:  # fmt: skip
    """Draw every caption, image i with seed + i, and measure; `sampling`, `precision` and `device`
    say how `draw` does. Without a network of features all distances are left out.

    Raises:
        ValueError: there are too few pictures, or nothing that measures, or nothing that CLIP could
            compare them with.
    """
    if judges.features is None and clip is None and not (reference.scenes and reference.prompted):
        why = judges.missing.get("frechet", "no network was given")
        raise ValueError(f"nothing can measure what is drawn; distances: {why}")
    features = judges.features or _nothing
    real = _look(reference.batches, features, device)
    _check_enough(real, reference, clip)
    prompts = [caption for caption in real.captions for _ in range(reference.repeats)]
    drawn = _draw(draw, prompts, reference, features, device, seed, clip)
    figures = _distances(real, drawn, prompts, reference) if judges.features else {}
    figures |= _heeded(drawn)
    protocol = judges.protocol(len(real.captions), real.size, real.digest, seed)
    protocol = replace(
        protocol, sampling=sampling, repeats=reference.repeats, clip=clip.name if clip else None,
        precision=precision, device=device.type,
    )  # fmt: skip
    if reference.training is not None and judges.features:
        found, training = _memorised(real, drawn, reference.training, judges.features)
        figures |= {"nearest_training_ratio": found.ratio,
                    "nearer_than_99_percent_of_real": found.copies}  # fmt: skip
        protocol = replace(protocol, training=training)
    images = torch.cat(drawn.examples)
    notes = dict(judges.missing)
    # Of images drawn there are no fewer.
    if "frechet" in figures and (few := too_few(*real.features.shape)):
        notes["frechet"] = few
    return Evaluation(
        rounded(figures), protocol, notes=notes,
        speed=_speed(draw, prompts, len(drawn.features[0]), device), examples=(images, images),
    )  # fmt: skip


def _nothing(images: UInt8[Tensor, "b c H W"]) -> Float[Tensor, "b 0"]:
    """What no network sees of images."""
    return torch.empty(len(images), 0)


def _check_enough(real: _Seen, reference: Reference, clip: ClipScore | None) -> None:
    if len(real.captions) <= NEIGHBOURS:
        raise ValueError(f"{len(real.captions)} pictures to measure: give more than {NEIGHBOURS}")
    if clip and not (reference.prompted and any(real.captions)):
        raise ValueError(
            "--clip compares images with their prompts, and here are none: leave it out"
        )


def _distances(
    real: _Seen, drawn: _Drawn, prompts: Sequence[str], reference: Reference
) -> dict[str, Any]:
    """Beside real pictures, by a network's features."""
    fake = torch.cat(drawn.features)
    precision, recall = precision_recall(real.features, fake)
    figures: dict[str, float | None] = {
        "frechet": frechet(real.features, fake), "precision": precision, "recall": recall,
    }  # fmt: skip
    if reference.prompted and reference.repeats > 1:
        figures["diversity"] = diversity(fake, prompts)
    return {name: value for name, value in figures.items() if value is not None}


def _heeded(drawn: _Drawn) -> dict[str, Any]:
    """Of what the prompts asked for."""
    figures: dict[str, Any] = {}
    if drawn.clip_scores:
        figures["clip_score"] = sum(drawn.clip_scores) / drawn.count
    if drawn.verdicts:
        checked = Alignment(tuple(drawn.verdicts))
        figures |= {"all_factors_right": checked.all_right, "factors_right": checked.accuracy}
    return figures


def _look(batches: Iterable[Batch], features: See, device: torch.device) -> _Seen:
    found, captions, digest, size = [], [], Digest(), 0
    for batch in batches:
        images = eight_bits(batch["image"])
        said = batch.get("caption") or [""] * len(images)
        digest.add(images, said)
        found.append(features(images.to(device)).cpu())
        captions += said
        size = images.shape[-1]
    return _Seen(torch.cat(found), captions, str(digest), size)


def _draw(
    draw: Draw, prompts: Sequence[str], reference: Reference, features: See, device: torch.device,
    seed: int, clip: ClipScore | None,
) -> _Drawn:  # fmt: skip
    out = _Drawn()
    for batch in draw(prompts, range(seed, seed + len(prompts))):
        images = eight_bits(batch)
        places = range(out.count, out.count + len(images))
        out.count += len(images)
        out.features.append(features(images.to(device)).cpu())
        if clip:
            out.clip_scores += clip(images, [prompts[i] for i in places])
        if reference.scenes is not None and reference.prompted:
            wanted = [reference.scenes[i // reference.repeats] for i in places]
            out.verdicts += _check(images, wanted)
        if places.start < SHOWN:
            out.examples.append(images[: SHOWN - places.start])
    return out


def _check(images: UInt8[Tensor, "b c H W"], scenes: Sequence[Scene]) -> list[dict[str, bool]]:
    floats = scaled(images)
    return [check(image, scene) for image, scene in zip(floats, scenes, strict=True)]


def _memorised(
    real: _Seen, drawn: _Drawn, batches: Iterable[Batch], features: Features
) -> tuple[Memorisation, str]:
    """How near the training pictures are, and how many of which these were."""
    of_fake, of_real = Nearest(torch.cat(drawn.features)), Nearest(real.features)
    digest, count = Digest(), 0
    for batch in batches:
        images = eight_bits(batch["image"])
        digest.add(images)
        found = features(images.to(features.device)).cpu()
        of_fake.add(found)
        of_real.add(found)
        count += len(images)
    return Memorisation(of_fake.distances, of_real.distances), f"{count} pictures, {digest}"


def _speed(
    draw: Draw, prompts: Sequence[str], count: int, device: torch.device
) -> dict[str, float | int]:
    """Of drawing as many as were drawn at a time, and MiB that it takes beside the weights."""
    found = speed(lambda: next(draw(prompts[:count], range(count))), device, repeats=1)
    return {"batch_size": count, "images_per_second": round(count / found.seconds, 2),
            "peak_mib": round(found.peak_mib, 1)}  # fmt: skip
