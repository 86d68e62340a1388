"""What pictures and their reconstructions came to, batch by batch and of all."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from calotype.evaluation.codebook import CodebookHealth
from calotype.evaluation.distances import frechet, too_few
from calotype.evaluation.distortion import distortion
from calotype.evaluation.health import LatentSums
from calotype.evaluation.judges import Judges
from calotype.evaluation.protocol import Digest, rounded
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete

EXACT_DB = 100.0
"""What an image that came back exactly counts in the mean of PSNRs, whose limit is infinite."""


@dataclass(frozen=True)
class Look:
    """What one batch came to, on the CPU."""

    real: UInt8[Tensor, "b c H W"]
    fake: UInt8[Tensor, "e c H W"]
    """Of the first ones, to be looked at."""
    values: dict[str, Tensor]
    """By name of a figure, of each picture."""
    features: tuple[Tensor, Tensor] | None
    """Of originals and reconstructions."""
    latents: LatentSums
    codes: Tensor | None

    @classmethod
    def at(
        cls, real: UInt8[Tensor, "b c H W"], fake: UInt8[Tensor, "b c H W"], packed: Tensor,
        latents: LatentSums, judges: Judges, counts: "CodeCounts", examples: int,
    ) -> "Look":  # fmt: skip
        """Compare originals and reconstructions."""
        judge = judges.features
        return cls(
            real.cpu(), fake[:examples].cpu().clone(), distortion(real, fake, judges.lpips),
            judge and (judge(real).cpu(), judge(fake).cpu()), latents, counts.of(packed),
        )  # fmt: skip


class Reconstructions:
    """What is gathered of originals and reconstructions, batch by batch."""

    def __init__(self, judges: Judges, examples: int) -> None:
        self.judges, self.examples, self.digest, self.width = judges, examples, Digest(), 0
        self.values: dict[str, list[Tensor]] = {}
        self.features: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.kept: list[tuple[Tensor, Tensor]] = []

    def add(self, found: Look) -> None:
        """Count a batch."""
        real, fake = found.real, found.fake
        self.digest.add(real)
        self.width = self.width or real.shape[-1]
        for name, values in found.values.items():
            self.values.setdefault(name, []).append(values)
        for each, features in zip(found.features or (), self.features, strict=False):
            features.append(each)
        alike = not self.kept or self.kept[0][0].shape[1:] == real.shape[1:]
        if alike and sum(len(each) for each, _ in self.kept) < self.examples:
            self.kept.append((real[: self.examples], fake))

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
        self.counts = self._none()

    def _none(self) -> Tensor:
        found = self.bottleneck
        shape = (found.codebooks, found.codes) if found else (0, 0)
        return torch.zeros(shape, dtype=torch.int64)

    def of(self, packed: Tensor) -> Tensor | None:
        """Counts of a batch's."""
        if self.bottleneck is None:
            return None
        self.bottleneck.tally(packed.long().cpu(), found := self._none())
        return found

    def add(self, counts: Tensor | None) -> None:
        """Count a batch's on."""
        if counts is not None:
            self.counts += counts

    def figures(self) -> dict[str, float]:
        """Use and perplexity."""
        if not self.bottleneck:
            return {}
        codes = CodebookHealth(self.counts)
        return {"code_use": round(codes.use, 4), "code_perplexity": round(codes.perplexity, 2)}


def _means(values: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, float]]:
    finite = {name: each.double().clamp(max=EXACT_DB if name.endswith("_db") else math.inf)
              for name, each in values.items()}  # fmt: skip
    means = {name: each.mean().item() for name, each in finite.items()}
    errors = {name: each.std().item() / math.sqrt(len(each)) for name, each in finite.items()}
    return rounded(means), rounded(errors)
