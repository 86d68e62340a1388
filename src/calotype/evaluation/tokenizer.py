"""Everything that is measured of a tokenizer, in one pass over pictures."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from calotype.data.loading.batches import draw_keys
from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.codebook import CodebookHealth
from calotype.evaluation.distances import frechet, too_few
from calotype.evaluation.distortion import distortion
from calotype.evaluation.features import Features
from calotype.evaluation.health import LatentHealth
from calotype.evaluation.protocol import Digest, Protocol, rounded
from calotype.evaluation.speed import speed
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.terms.base import Term
from calotype.training import Batch
from calotype.training.devices import Precision, computing, settled
from calotype.training.images import sent_images
from calotype.training.noise import generators
from calotype.training.progress import Told

EXACT_DB = 100.0
"""What an image that came back exactly counts in the mean of PSNRs, whose limit is infinite."""


@dataclass(frozen=True)
class Judges:
    """The networks that judge images; none: what they measure is left out."""

    features: Features | None = None
    lpips: Mapping[str, Term] = field(default_factory=dict)
    """By name of the backbone."""
    lpips_digests: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """Figures for which there is none, and why."""

    def protocol(self, images: int, size: int, digest: str, seed: int) -> Protocol:
        """Of what they measured."""
        name = self.features.name if self.features else None
        return Protocol(images, size, digest, name, dict(self.lpips_digests), seed)


@dataclass
class Evaluation:
    """What was found."""

    figures: dict[str, Any]
    protocol: Protocol
    errors: dict[str, float] = field(default_factory=dict)
    """Standard errors of those figures that are means over images."""
    notes: dict[str, str] = field(default_factory=dict)
    """What must be known of a figure, or why it is missing, by its name."""
    health: dict[str, Any] = field(default_factory=dict)
    """Of the latent space."""
    speed: dict[str, float | int] = field(default_factory=dict)
    """Of this machine, and not of the protocol."""
    examples: tuple[Tensor, Tensor] | None = None
    """The first pictures, of one shape, and what became of them, 8 bits [n c H W]."""


@torch.no_grad()
def evaluate_tokenizer(
    tokenizer: ImageTokenizer, batches: Iterable[Batch], judges: Judges, seed: int = 0,
    examples: int = 16, precision: Precision = "fp32",
) -> Evaluation:  # fmt: skip
    """Reconstruct every picture from its likeliest latent, and measure; encoder and decoder compute
    in `precision`.

    Raises:
        ValueError: there are fewer than two pictures.
    """
    tokenizer = tokenizer.eval()
    device = tokenizer.last_layer.weight.device
    with computing(precision, device, *tokenizer.networks):
        found = _evaluate(tokenizer, batches, judges, seed, examples)
    protocol = replace(found.protocol, precision=settled(precision, device), device=device.type)
    return replace(found, protocol=protocol)


def _evaluate(
    tokenizer: ImageTokenizer, batches: Iterable[Batch], judges: Judges, seed: int, examples: int
) -> Evaluation:
    device, health = tokenizer.last_layer.weight.device, LatentHealth(tokenizer)
    pictures, codes = Reconstructions(judges, examples), CodeCounts(tokenizer)
    first: Tensor | None = None
    for batch in batches:
        images = sent_images(batch["image"], device)
        first = images if first is None else first
        keys = draw_keys(seed, health.images, len(images))
        real, fake, packed = _pass(tokenizer, images, keys, health)
        pictures.add(real, fake)
        codes.add(packed)
    if first is None or health.images < 2:
        raise ValueError(f"{health.images} pictures to measure: give 2 or more")
    figures, errors = pictures.figures()
    protocol = judges.protocol(health.images, first.shape[-1], str(pictures.digest), seed)
    return Evaluation(
        figures, protocol, errors, pictures.notes(), health.figures() | codes.figures(),
        throughput(tokenizer, first), pictures.pairs(),
    )  # fmt: skip


class Reconstructions:
    """What is gathered of originals and reconstructions, 8 bits [b c H W], batch by batch."""

    def __init__(self, judges: Judges, examples: int) -> None:
        self.judges, self.examples, self.digest = judges, examples, Digest()
        self.values: dict[str, list[Tensor]] = {}
        self.features: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.kept: list[tuple[Tensor, Tensor]] = []

    def add(self, real: UInt8[Tensor, "b c H W"], fake: UInt8[Tensor, "b c H W"]) -> None:
        """Compare a batch."""
        self.digest.add(real)
        for name, found in distortion(real, fake, self.judges.lpips).items():
            self.values.setdefault(name, []).append(found)
        if judge := self.judges.features:
            for each, features in zip((real, fake), self.features, strict=True):
                features.append(judge(each).cpu())
        alike = not self.kept or self.kept[0][0].shape[1:] == real.shape[1:]
        if alike and sum(len(each) for each, _ in self.kept) < self.examples:
            self.kept.append((real[: self.examples].cpu(), fake[: self.examples].cpu()))

    def figures(self) -> tuple[dict[str, Any], dict[str, float]]:
        """Figures of all, and the standard errors of those that are means."""
        figures, errors = _means({name: torch.cat(parts) for name, parts in self.values.items()})
        if self.judges.features:
            figures["frechet"] = round(frechet(*(torch.cat(each) for each in self.features)), 4)
        return figures, errors

    def notes(self) -> dict[str, str]:
        """What must be known of them."""
        notes = dict(self.judges.missing)
        if self.judges.features:
            real = self.features[0]
            if few := too_few(sum(map(len, real)), real[0].shape[1]):
                notes["frechet"] = few
        return notes

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The first originals and what became of them."""
        real, fake = (torch.cat(each)[: self.examples] for each in zip(*self.kept, strict=True))
        return real, fake


class CodeCounts:
    """How often each code was chosen; of a continuous tokenizer nothing."""

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        found = tokenizer.bottleneck
        self.bottleneck = found if isinstance(found, Discrete) else None
        if self.bottleneck:
            shape = self.bottleneck.codebooks, self.bottleneck.codes
            self.counts = torch.zeros(shape, dtype=torch.int64)

    def add(self, packed: Tensor) -> None:
        """Count a batch's."""
        if self.bottleneck:
            self.bottleneck.tally(packed.long().cpu(), self.counts)

    def figures(self) -> dict[str, float]:
        """Use and perplexity."""
        if not self.bottleneck:
            return {}
        codes = CodebookHealth(self.counts)
        return {"code_use": round(codes.use, 4), "code_perplexity": round(codes.perplexity, 2)}


def _pass(
    tokenizer: ImageTokenizer, images: Float[Tensor, "b c H W"], keys: list[int],
    health: LatentHealth,
) -> tuple[UInt8[Tensor, "b c H W"], UInt8[Tensor, "b c H W"], Tensor]:  # fmt: skip
    bottleneck, h = tokenizer.bottleneck, tokenizer.features(images)
    packed = bottleneck.pack(h)
    z = bottleneck.unpack(packed, generators(keys))
    mode = z if isinstance(bottleneck, Discrete) else bottleneck.mode(h)
    health.add(packed, z, mode)
    return eight_bits(images), eight_bits(tokenizer.decode(mode)), packed


def _means(values: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, float]]:
    finite = {name: each.double().clamp(max=EXACT_DB) for name, each in values.items()}
    means = {name: each.mean().item() for name, each in finite.items()}
    errors = {name: each.std().item() / math.sqrt(len(each)) for name, each in finite.items()}
    return rounded(means), rounded(errors)


@torch.no_grad()
def throughput(
    tokenizer: ImageTokenizer, images: Float[Tensor, "b c H W"]
) -> dict[str, float | int]:
    """Images a second of encoding and decoding a batch of this size, and MiB that each takes
    beside the weights.
    """
    device = images.device
    encoded = tokenizer.bottleneck.mode(tokenizer.features(images))
    with Told("timing", None):
        there = speed(lambda: tokenizer.bottleneck.mode(tokenizer.features(images)), device)
        back = speed(lambda: tokenizer.decode(encoded), device)
    return {
        "batch_size": len(images),
        "encode_images_per_second": round(len(images) / there.seconds, 2),
        "decode_images_per_second": round(len(images) / back.seconds, 2),
        "encode_peak_mib": round(there.peak_mib, 1),
        "decode_peak_mib": round(back.peak_mib, 1),
    }
