"""The likelihood by which a tokenizer was trained, kept beside it: with that of its latents' prior
it is a model of pictures, whose likelihood can be measured.
"""

import json
from dataclasses import replace
from pathlib import Path

from calotype.tokenizers.terms import (
    BernoulliLikelihood,
    BinaryLikelihood,
    FixedDeviation,
    GaussianLikelihood,
    Likelihood,
    LogitLaplace,
    Pixel,
)
from calotype.tokenizers.terms.base import Term
from calotype.tokenizers.terms.likelihoods import GaussianTerm
from calotype.tokenizers.tokenizer import KEPT_IN, ImageTokenizer
from calotype.training.description import describe, restore
from calotype.training.network import located, place

FILE = "calotype_likelihood.json"
"""Beside a tokenizer."""
LikelihoodSpec = GaussianLikelihood | BernoulliLikelihood | BinaryLikelihood | LogitLaplace


def likelihood_of(tokenizer: ImageTokenizer, pixel: Pixel, term: Term) -> LikelihoodSpec | None:
    """What is to be kept beside a tokenizer that was trained by a term, with its deviation as it
    was learnt; None: its pixels have no likelihood, its latents keep no prior, or what is saved of
    it emits a picture alone.
    """
    if not isinstance(pixel, LikelihoodSpec) or not tokenizer.bottleneck.has_prior:
        return None
    if pixel.maps > 1 and tokenizer.is_stock:
        return None
    if isinstance(pixel, GaussianLikelihood) and isinstance(term, GaussianTerm):
        return replace(pixel, deviation=FixedDeviation(term.log_deviation.exp().item()))
    return pixel


def keep_likelihood(folder: Path, spec: LikelihoodSpec) -> None:
    """Write it beside a tokenizer."""
    (folder / FILE).write_text(json.dumps(describe(spec), indent=1) + "\n")


def kept_likelihood(path: str | Path) -> Likelihood | None:
    """That of a tokenizer, where `ImageTokenizer.load` finds it; None: it has none.

    Raises:
        ValueError: it cannot be read.
    """
    file = (place(located(path, *KEPT_IN)) / FILE).fetched()
    if file is None or not file.is_file():
        return None
    try:
        return restore(LikelihoodSpec, json.loads(file.read_text())).build()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no likelihood: {error}; train again, or remove it to measure all else"
        ) from error
