"""The networks that judge images, and what is found by them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from calotype.evaluation.features import Features
from calotype.evaluation.protocol import Protocol
from calotype.tokenizers.terms.base import Term


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
