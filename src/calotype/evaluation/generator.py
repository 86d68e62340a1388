"""Everything that is measured of a generator: pictures, and what it draws for their captions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from calotype.data.drawn.scenes import Scene
from calotype.data.loading.passes import Turn
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
from calotype.evaluation.judges import Evaluation, Judges
from calotype.evaluation.prompts import ClipScore
from calotype.evaluation.protocol import Digest, rounded
from calotype.evaluation.speed import speed
from calotype.training.agreement import by_main
from calotype.training.images import scaled
from calotype.training.precision import Name
from calotype.training.progress import track
from calotype.training.sharing import in_turn, own_part

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

    batches: Iterable[Turn]
    """Pictures with captions, which are the prompts: this rank's turns."""
    prompted: bool = True
    """Whether the generator heeds prompts: without, nothing is said about how."""
    scenes: Sequence[Scene] | None = None
    """What each caption says, where that is known."""
    training: Iterable[Turn] | None = None
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
    """What was drawn, gathered piece by piece; of the images themselves only the first are kept."""

    features: Float[Tensor, "n d"]
    images: UInt8[Tensor, "e c H W"]
    verdicts: list[dict[str, bool]] = field(default_factory=list)
    clip_scores: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, pieces: Sequence["_Drawn"]) -> "_Drawn":
        """Those of all; on other ranks than the main process there are none."""
        if not pieces:
            return cls(torch.empty(0, 0), torch.empty(0, 3, 0, 0, dtype=torch.uint8))
        return cls(
            torch.cat([each.features for each in pieces]),
            torch.cat([each.images for each in pieces])[:SHOWN],
            [verdict for each in pieces for verdict in each.verdicts],
            [score for each in pieces for score in each.clip_scores],
        )


@torch.no_grad()
def evaluate_generator(
    draw: Draw, reference: Reference, judges: Judges, seed: int = 0,
    clip: ClipScore | None = None, sampling: dict[str, Any] | None = None,
    precision: Name = "fp32", device: torch.device = CPU, each: int = 32,
) -> Evaluation:  # fmt: skip
    """Draw every caption, image i with seed + i, and measure; `sampling`, `precision` and `device`
    say how `draw` does, which is asked for `each` images at a time. Without a network of features
    all distances are left out.

    Raises:
        ValueError: there are too few pictures, or nothing that measures, or nothing that CLIP could
            compare them with.
    """
    return survey_generator(
        draw, reference, judges, seed, clip, sampling, precision, device, each
    )()  # fmt: skip


@torch.no_grad()
def survey_generator(
    draw: Draw, reference: Reference, judges: Judges, seed: int, clip: ClipScore | None,
    sampling: dict[str, Any] | None, precision: Name, device: torch.device, each: int,
) -> Callable[[], Evaluation]:  # fmt: skip
    """Look at the pictures and draw, as `evaluate_generator`; ranks share both. What it returns is
    for the main process to call, which makes figures of what all have seen: the same as one process
    would find.
    """
    if judges.features is None and clip is None and not (reference.scenes and reference.prompted):
        why = judges.missing.get("frechet", "no network was given")
        raise ValueError(f"nothing can measure what is drawn; distances: {why}")
    features = judges.features or _nothing
    real = _look(reference.batches, features, device)
    captions = by_main(lambda: _enough(real, reference, clip))
    prompts = [caption for caption in captions for _ in range(reference.repeats)]
    drawn = _draw(draw, prompts, reference, features, device, seed, clip, each)
    seen = None
    if reference.training is not None and judges.features:
        seen = _memorised(real, drawn, reference.training, judges.features)

    def figures() -> Evaluation:
        found = _distances(real, drawn, prompts, reference) if judges.features else {}
        found |= _heeded(drawn)
        protocol = judges.protocol(len(real.captions), real.size, real.digest, seed)
        protocol = replace(
            protocol, sampling=sampling, repeats=reference.repeats, precision=precision,
            clip=clip.name if clip else None, device=device.type,
        )  # fmt: skip
        if seen is not None:
            repeated, training = seen
            found |= {"nearest_training_ratio": repeated.ratio,
                      "nearer_than_99_percent_of_real": repeated.copies}  # fmt: skip
            protocol = replace(protocol, training=training)
        notes = dict(judges.missing)
        # Of images drawn there are no fewer.
        if "frechet" in found and (few := too_few(*real.features.shape)):
            notes["frechet"] = few
        return Evaluation(
            rounded(found), protocol, notes=notes, speed=_speed(draw, prompts[:each], device),
            examples=(drawn.images, drawn.images),
        )  # fmt: skip

    return figures


def _nothing(images: UInt8[Tensor, "b c H W"]) -> Float[Tensor, "b 0"]:
    """What no network sees of images."""
    return torch.empty(len(images), 0)


def _enough(real: _Seen, reference: Reference, clip: ClipScore | None) -> list[str]:
    """The captions of pictures that are enough to measure.

    Raises:
        ValueError: they are not.
    """
    if len(real.captions) <= NEIGHBOURS:
        raise ValueError(f"{len(real.captions)} pictures to measure: give more than {NEIGHBOURS}")
    if clip and not (reference.prompted and any(real.captions)):
        raise ValueError(
            "--clip compares images with their prompts, and here are none: leave it out"
        )
    return real.captions


def _distances(
    real: _Seen, drawn: _Drawn, prompts: Sequence[str], reference: Reference
) -> dict[str, Any]:
    """Beside real pictures, by a network's features."""
    fake = drawn.features
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
        figures["clip_score"] = sum(drawn.clip_scores) / len(drawn.clip_scores)
    if drawn.verdicts:
        checked = Alignment(tuple(drawn.verdicts))
        figures |= {"all_factors_right": checked.all_right, "factors_right": checked.accuracy}
    return figures


def _look(turns: Iterable[Turn], features: See, device: torch.device) -> _Seen:
    def look(turn: Turn) -> tuple[Tensor, list[str], Tensor] | None:
        if not turn.batch:
            return None
        images = eight_bits(turn.batch["image"])
        said = turn.batch.get("caption") or [""] * len(images)
        return images.cpu(), said, features(images.to(device)).cpu()

    found, captions, digest, size = [torch.empty(0, 0)], [], Digest(), 0
    for images, said, seen in filter(None, in_turn(turns, look)):
        digest.add(images, said)
        found.append(seen)
        captions += said
        size = images.shape[-1]
    return _Seen(torch.cat(found[1:] or found), captions, str(digest), size)


def _draw(
    draw: Draw, prompts: Sequence[str], reference: Reference, features: See, device: torch.device,
    seed: int, clip: ClipScore | None, each: int,
) -> _Drawn:  # fmt: skip
    """Draw all prompts, `each` at a time."""

    def piece(places: range) -> _Drawn:
        said = [prompts[i] for i in places]
        with torch.random.fork_rng():
            # Some stock schedulers draw without a generator; what others drew is not to matter.
            torch.manual_seed(seed + places.start)
            images = eight_bits(torch.cat(list(draw(said, [seed + i for i in places]))))
        found = _Drawn(
            features(images.to(device)).cpu(), images[: max(0, SHOWN - places.start)].clone()
        )
        if clip:
            found.clip_scores += clip(images, said)
        if reference.scenes is not None and reference.prompted:
            wanted = [reference.scenes[i // reference.repeats] for i in places]
            found.verdicts += _check(images, wanted)
        return found

    places = range(len(prompts))
    every = [places[i : i + each] for i in range(0, len(places), each)]
    own = list(own_part(every))
    drawn = list(in_turn(track(own, "drawing", len(own), each), piece))
    return _Drawn.of(drawn)


def _check(images: UInt8[Tensor, "b c H W"], scenes: Sequence[Scene]) -> list[dict[str, bool]]:
    floats = scaled(images)
    return [check(image, scene) for image, scene in zip(floats, scenes, strict=True)]


def _memorised(
    real: _Seen, drawn: _Drawn, turns: Iterable[Turn], features: Features
) -> tuple[Memorisation, str]:
    """How near the training pictures are, and how many of which these were."""

    def look(turn: Turn) -> tuple[Tensor, Tensor] | None:
        if not turn.batch:
            return None
        images = eight_bits(turn.batch["image"])
        return images.cpu(), features(images.to(features.device)).cpu()

    of_fake, of_real = Nearest(drawn.features), Nearest(real.features)
    digest, count = Digest(), 0
    for images, found in filter(None, in_turn(turns, look)):
        digest.add(images)
        of_fake.add(found)
        of_real.add(found)
        count += len(images)
    return Memorisation(of_fake.distances, of_real.distances), f"{count} pictures, {digest}"


def _speed(draw: Draw, prompts: Sequence[str], device: torch.device) -> dict[str, float | int]:
    """Of drawing as many as were drawn at a time, and MiB that it takes beside the weights."""
    count = len(prompts)
    found = speed(lambda: next(draw(prompts, range(count))), device, repeats=1)
    return {"batch_size": count, "images_per_second": round(count / found.seconds, 2),
            "peak_mib": round(found.peak_mib, 1)}  # fmt: skip
