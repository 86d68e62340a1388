"""All scores of a tokenizer, and the controls that they have to be better than."""

from calotype.pipelines.tokens import TokenPipeline
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.terms.perceptual import PerceptualTerm
from calotype.training.devices import Precision
from calotype.uses.detection.codes import CodeDistance, has_distances
from calotype.uses.detection.dense import Anywhere, EachSite
from calotype.uses.detection.densities import Mixture, Nearest
from calotype.uses.detection.evidence import NegativeELBO, has_divergence
from calotype.uses.detection.features import (
    EncoderMaps,
    Patches,
    has_maps,
    latents,
    read_by_bottleneck,
)
from calotype.uses.detection.likelihood import TokenBits
from calotype.uses.detection.pixels import PrincipalPixels
from calotype.uses.detection.reconstruction import PerceptualError, PixelError, StructuralError
from calotype.uses.detection.score import Score

PATCH = 8
"""Pixels a side of the control's patches, at most."""


def of_tokenizer(
    tokenizer: ImageTokenizer, perceptual: PerceptualTerm | None = None
) -> dict[str, Score]:
    """All scores that a tokenizer has, by name."""
    found: dict[str, Score] = {"pixel error": PixelError(), "structural error": StructuralError()}
    if perceptual is not None:
        found["perceptual error"] = PerceptualError(perceptual)
    read = read_by_bottleneck if isinstance(tokenizer.bottleneck, Discrete) else latents
    found["latents, each place"] = EachSite(read)
    found["latents, mixture"] = Anywhere(read, Mixture(), "nats a site")
    if has_maps(tokenizer):
        maps = EncoderMaps()
        found["encoder, each place"] = EachSite(maps)
        found["encoder, nearest"] = Anywhere(maps, Nearest(), "standard deviations")
    if has_distances(tokenizer):
        found["code distance"] = CodeDistance()
    if has_divergence(tokenizer):
        found["-ELBO"] = NegativeELBO()
    return found


def of_transformer(pipeline: TokenPipeline, precision: Precision = "fp32") -> dict[str, Score]:
    """That of a transformer in the tokenizer's codes, by name."""
    return {"token bits": TokenBits(pipeline, precision)}


def of_pixels(tokenizer: ImageTokenizer) -> dict[str, Score]:
    """The controls without any network, by name; the tokenizer says how large patches are."""
    side = min(tokenizer.factor, PATCH)
    while tokenizer.factor % side:
        side -= 1
    return {
        "pixels, principal": PrincipalPixels(),
        "pixels, each place": EachSite(Patches(side)),
    }
