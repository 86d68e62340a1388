"""Claims of variational autoencoders: what is drawn, and rate against distortion."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from calotype.tokenizers.bottlenecks import Gaussian, Identity
from calotype.tokenizers.bottlenecks.divergences import Capacity, Whole
from calotype.tokenizers.priors import OneGaussian, fit_prior
from calotype.tokenizers.terms import L2
from calotype.training.noise import generators
from calotype.training.schedules import Linear
from claims.learning import NORMAL, Figure, digits, psnr_of, trained


def divergence(draws: int = 200_000) -> list[Figure]:
    """Kingma & Welling 2014, appendix B: the closed form is what draws say."""
    bottleneck = Gaussian(4, keep_prior=True).build()
    h = torch.tensor([0.5, -1.0, 2.0, 0.0, -1.0, 0.5, -3.0, 0.0]).view(1, 8, 1, 1)
    closed = bottleneck(h).divergence
    assert closed is not None
    many = h.expand(draws, -1, -1, -1)
    torch.manual_seed(0)
    told = -bottleneck.weigh(many)[1].double().mean().item()
    apart = abs(told / closed.item() - 1)
    return [Figure("divergence: closed form beside draws, relative", apart, "< 0.01", apart < 0.01,
                   f"{closed.item():.4f} and {told:.4f} nats")]  # fmt: skip


def drawing(steps: int = 2500) -> list[Figure]:
    """Kingma & Welling 2014; Ghosh et al. 2020: what is decoded from N(0, 1) is at least three
    times nearer to the data than from a plain autoencoder, and a Gaussian that is fitted to the
    latents of that closes the gap.
    """
    learnt, _, held, _ = digits()
    variational = trained(Gaussian(8, kl_weight=1.0, keep_prior=True), learnt, NORMAL, steps)
    plain = trained(Identity(8), learnt, L2(), steps)
    chance = [torch.Generator().manual_seed(i) for i in range(len(learnt))]
    unit = torch.stack([torch.randn(8, 1, 1, generator=g) for g in chance])
    batches = [{"image": learnt, "key": list(range(len(learnt)))}]
    fitted = fit_prior(plain, batches, OneGaussian()).draw(chance)
    with torch.no_grad():
        own, gaps, closed = (frechet(each.decode(z), learnt) for each, z in
                             ((variational, unit), (plain, unit), (plain, fitted)))  # fmt: skip
    said = f"from N(0, 1): variational {own:.3f}, plain {gaps:.3f}; fitted {closed:.3f}; "
    said += f"held-out digits {frechet(held, learnt):.3f}"
    return [
        Figure("drawing: how much nearer than a plain one from N(0, 1), times", gaps / own, ">= 3",
               gaps >= 3 * own, said),
        Figure("drawing: plain with a fitted prior, of the variational", closed / own, "<= 1.5",
               closed <= 1.5 * own),
    ]  # fmt: skip


def capacity(nats: float = 12.0, steps: int = 2500) -> list[Figure]:
    """Burgess et al. 2018, eq. 8: each picture is told in so many nats, and not only all of them in
    the mean, as where their divergence is paid for.
    """
    learnt, _, held, _ = digits()
    held_to = Capacity(Linear(0.0, nats, steps // 2))
    own, whole = (
        trained(Gaussian(8, kl_weight=weight, divergence=paid, keep_prior=True), learnt, NORMAL,
                steps)
        for weight, paid in ((20.0, held_to), (1.0, Whole()))
    )  # fmt: skip
    with torch.no_grad():
        told, control = (each.encode(held).divergence for each in (own, whole))
    assert told is not None and control is not None
    mean, spread = told.mean().item(), told.std().item()
    other = f"all of it paid for: {control.mean():.2f} +- {control.std():.2f}"
    return [
        Figure(f"capacity of {nats:g} nats: what a held-out picture is told in", mean,
               "within 5 %", abs(mean / nats - 1) <= 0.05, other),
        Figure("the same: its deviation over pictures, nats", spread, "<= half of the control's",
               spread <= control.std().item() / 2),
    ]  # fmt: skip


def frechet(drawn: Tensor, real: Tensor) -> float:
    """Between Gaussians fitted to 16 principal components, of images in [0, 1]."""
    from scipy.linalg import sqrtm

    flat = ((real + 1) / 2).flatten(1).double().numpy()
    mean = flat.mean(0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:16].T
    both = [(((x + 1) / 2).flatten(1).double().numpy() - mean) @ axes for x in (drawn, real)]
    means, covariances = [x.mean(0) for x in both], [np.cov(x.T) for x in both]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(sum(covariances) - 2 * root))


def weights(steps: int = 2000) -> list[Figure]:
    """Higgins et al. 2017; Alemi et al. 2018: the more the divergence weighs, the less is kept of a
    picture and the worse it is rebuilt of what is drawn, all the way.
    """
    learnt, _, held, _ = digits()
    rates, decibels = [], []
    for beta in (0.1, 0.3, 1.0, 3.0, 10.0):
        made = trained(Gaussian(8, kl_weight=beta, keep_prior=True), learnt, NORMAL, steps)
        with torch.no_grad():
            found = made.encode(held, generators(range(len(held))))
            decibels.append(psnr_of(made.decode(found.z), held))
        assert found.divergence is not None
        rates.append(found.divergence.mean().item() / math.log(2))
    falls = min(a - b for a, b in pairwise(rates))
    drops = min(a - b for a, b in pairwise(decibels))
    bits, quality = (", ".join(f"{x:.1f}" for x in each) for each in (rates, decibels))
    return [
        Figure("beta 0.1, 0.3, 1, 3, 10: least fall of the rate, bits", falls, "> 0", falls > 0,
               f"{bits} bits"),
        Figure("the same: least fall of PSNR, dB", drops, "> 0", drops > 0, f"{quality} dB"),
    ]  # fmt: skip
