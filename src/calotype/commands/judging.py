"""The networks that judge images, as far as they can be had."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calotype.evaluation.features import Network, features
from calotype.evaluation.hub import file_of
from calotype.evaluation.judges import Judges
from calotype.evaluation.protocol import digest_of
from calotype.tokenizers.terms import LPIPS
from calotype.tokenizers.terms.base import Term
from calotype.tokenizers.terms.perceptual import SMALLEST
from calotype.training.devices import Computation, Precision
from calotype.training.distributed import processes
from calotype.training.network import patience

Backbone = Literal["alex", "vgg"]
BACKBONES: tuple[Backbone, ...] = ("alex", "vgg")


@dataclass(frozen=True, kw_only=True)
class Comparing(Computation):
    """By what images are compared with their originals. What is not named and cannot be had is left
    out, which is said; what is named is needed.
    """

    lpips: tuple[Backbone, ...] | None = None
    """Backbones of LPIPS; with nothing behind it LPIPS is left out. None: alex and vgg, as far as
    they can be had and the images are large enough."""
    backbone_weights: Path | None = None
    """Folder of alexnet-features.safetensors and vgg16-features.safetensors, with torchvision's
    names; None: torchvision fetches them."""

    def perceptual(self, size: int, missing: dict[str, str]) -> Iterator[tuple[str, Term]]:
        """LPIPS of images whose shorter side has `size` pixels, by the names of backbones; those
        that are left out, and why, are put into `missing`.

        Raises:
            ValueError: one that is named cannot be had.
        """
        for net in BACKBONES if self.lpips is None else self.lpips:
            try:
                yield net, self._term(net, size)
            except ValueError as error:
                if self.lpips is not None:
                    raise ValueError(
                        f"--lpips {net}: {error}; or leave LPIPS out by --lpips with nothing "
                        "behind it"
                    ) from error
                missing[f"lpips_{net}"] = str(error)

    def _term(self, net: Backbone, size: int) -> Term:
        if size < SMALLEST[net]:
            raise ValueError(f"it needs images of {SMALLEST[net]} pixels or more, not {size}")
        weights = self.backbone_weights and self.backbone_weights / file_of(net)
        try:
            with patience():
                return LPIPS(net=net, backbone_weights=weights).build().to(self.place)
        except ValueError as error:
            what = f"{weights} cannot be read" if weights else "its backbone cannot be fetched"
            raise ValueError(
                f"{what}: give a folder with {file_of(net)} as --backbone-weights, or try again "
                "with a network"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Judging(Comparing):
    """By what images are judged."""

    precision: Precision = "fp32"
    """Of the artifact's networks; what judges computes in fp32. Figures of several precisions are
    not compared."""
    features: Network | None = None
    """Network of distances between distributions. None: Inception where its weights can be
    fetched, else EfficientNet-Lite0; figures of the two are never compared."""

    def judges(self, size: int | None) -> Judges:
        """All that judges what is made of images of `size` pixels a side; None: by their
        distributions alone, as a generator's. Prints what is left out, and how to get it.

        Raises:
            ValueError: something that is named cannot be had.
        """
        found, missing = None, {}
        try:
            with patience():
                found = features(self.features).to(self.place)
        except ValueError as error:
            if self.features is not None:
                raise
            missing["frechet"] = str(error)
        terms = dict(self.perceptual(size, missing)) if size else {}
        if processes().is_main_process:
            for name, why in missing.items():
                print(f"left out: {name}, because {why}")
        digests = {net: digest_of(term.state_dict()) for net, term in terms.items()}
        return Judges(found, terms, digests, {name: f"left out: {why}"
                                              for name, why in missing.items()})  # fmt: skip
