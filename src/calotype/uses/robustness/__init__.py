"""Attacks on pictures, what they do to latents and classifiers, and what is left after mending."""

from calotype.uses.robustness.attacks import PGD, fgsm, margin, moved, noise, pgd, surprise
from calotype.uses.robustness.correcting import (
    Normal,
    Posterior,
    corrected,
    is_correctable,
    latents,
    likelihood_for,
    prior_of,
    rebuilt,
)
from calotype.uses.robustness.hmc import HMC, Chains, hmc
from calotype.uses.robustness.purifying import Defended, Purified, defended

__all__ = ["HMC", "PGD", "Chains", "Defended", "Normal", "Posterior", "Purified", "corrected",
           "defended", "fgsm", "hmc", "is_correctable", "latents", "likelihood_for", "margin",
           "moved", "noise", "pgd", "prior_of", "rebuilt", "surprise"]  # fmt: skip
