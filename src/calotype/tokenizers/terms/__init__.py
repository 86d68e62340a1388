"""The terms of a reconstruction's loss. To add one: write its file, name its spec in a union."""

from calotype.tokenizers.terms.adversarial import (
    R1,
    Adaptive,
    Adversary,
    Fixed,
    Hinge,
    HingeNonSaturating,
    LeCAM,
    NonSaturating,
    PatchDiscriminator,
)
from calotype.tokenizers.terms.base import Term
from calotype.tokenizers.terms.likelihoods import (
    BernoulliLikelihood,
    BinaryLikelihood,
    EmittedDeviation,
    FixedDeviation,
    GaussianLikelihood,
    LearntDeviation,
    Likelihood,
)
from calotype.tokenizers.terms.logit_laplace import LogitLaplace
from calotype.tokenizers.terms.perceptual import LPIPS, PerceptualTerm
from calotype.tokenizers.terms.pixel import L1, L2, Huber

Pixel = L1 | L2 | Huber | LogitLaplace | GaussianLikelihood | BernoulliLikelihood | BinaryLikelihood

__all__ = [
    "L1",
    "L2",
    "LPIPS",
    "R1",
    "Adaptive",
    "Adversary",
    "BernoulliLikelihood",
    "BinaryLikelihood",
    "EmittedDeviation",
    "Fixed",
    "FixedDeviation",
    "GaussianLikelihood",
    "Hinge",
    "HingeNonSaturating",
    "Huber",
    "LeCAM",
    "LearntDeviation",
    "Likelihood",
    "LogitLaplace",
    "NonSaturating",
    "PatchDiscriminator",
    "PerceptualTerm",
    "Pixel",
    "Term",
]
