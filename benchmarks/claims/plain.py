"""Claims of autoencoders that draw nothing: linear, denoising, contractive."""

from itertools import pairwise

import numpy as np
import torch
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.contraction import Exact, Jacobian
from calotype.tokenizers.corruptions import GaussianNoise
from calotype.tokenizers.terms import L2
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW
from claims.learning import Figure, digits, psnr_of, trained


def linear(steps: int = 3000) -> list[Figure]:
    """Baldi & Hornik 1989; Kunin et al. 2019: the principal subspace, "but not the principal
    directions".
    """
    learnt = digits()[0]
    optimizer = AdamW(3e-2, (0.9, 0.99), schedule="cosine")
    tokenizer = trained(Identity(8), learnt, L2(), steps, len(learnt), dense=Dense(()),
                        optimizer=optimizer)  # fmt: skip
    flat = learnt.flatten(1).double()
    mean, (_, _, axes) = flat.mean(0), torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    with torch.no_grad():
        ends = tokenizer.decode(torch.eye(9)[:, :8, None, None]).flatten(1).double()
        rebuilt = tokenizer.reconstruct(learnt).flatten(1).double()
    columns = (ends[:8] - ends[8]).T
    basis, _ = torch.linalg.qr(columns)
    cosines = torch.linalg.svdvals(axes[:8] @ basis)
    angle = torch.rad2deg(torch.arccos(cosines.min().clamp(max=1))).item()
    best = (flat - mean) @ axes[:8].T @ axes[:8] + mean
    ratio = ((rebuilt - flat).square().sum() / (best - flat).square().sum()).item()
    unit = torch.nn.functional.normalize(columns, dim=0)
    lean = (unit.T @ unit - torch.eye(8).double()).abs().max().item()
    return [
        Figure("linear: largest principal angle, degrees", angle, "< 0.5", angle < 0.5),
        Figure("linear: error, of PCA's", ratio, "< 1.001", ratio < 1.001),
        Figure("linear: largest cosine between its columns", lean, "> 0.05", lean > 0.05, "PCA 0"),
    ]


def deep(steps: int = 2500) -> list[Figure]:
    """Hinton & Salakhutdinov 2006: less error than as many principal components, on digits that
    were not learnt.
    """
    learnt, _, held, _ = digits()
    made = trained(Identity(8), learnt, L2(), steps)
    flat, test = learnt.flatten(1), held.flatten(1)
    axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:8]
    best = (test - flat.mean(0)) @ axes.T @ axes + flat.mean(0)
    own = (made.reconstruct(held) - held).square().mean()
    part = (own / (best - test).square().mean()).item()
    return [Figure("deep, 8 numbers: held-out error, of PCA's", part, "< 0.7", part < 0.7, "PCA 1")]


def denoising(steps: int = 8000) -> list[Figure]:
    """Vincent et al. 2010, by noise of deviation 0.3 of black to white, and as there by one hidden
    layer and a wide code, which without noise learns to copy. The control is that copy, for what
    rebuilds less takes noise away by itself: through 32 numbers a plain one gains 4 dB. Total
    variation (Chambolle 2004), at the best of its weights, is what needs no learning.
    """
    learnt, _, held, _ = digits()
    corruption = GaussianNoise(0.6)
    plain = trained(Identity(128), learnt, L2(), steps, dense=Dense((256,)))
    own = trained(Identity(128), learnt, L2(), steps, dense=Dense((256,)), corruption=corruption)
    noisy = corruption(held, [torch.Generator().manual_seed(i) for i in range(len(held))]).images
    seen, copied = psnr_of(noisy, held), psnr_of(plain.reconstruct(held), held)
    fed, restored = (psnr_of(each.reconstruct(noisy), held) for each in (plain, own))
    smooth = max(psnr_of(_total_variation(noisy, weight), held) for weight in (0.1, 0.2, 0.4, 0.8))
    said = f"noisy {seen:.2f}, plain {fed:.2f} (clean ones {copied:.1f}), variation {smooth:.2f} dB"
    return [
        Figure("denoising: dB over the noisy picture", restored - seen, ">= 5",
               restored - seen >= 5, said),
        Figure("denoising: dB over a plain one fed noise", restored - fed, ">= 4",
               restored - fed >= 4, f"{restored:.2f} dB"),
        Figure("denoising: dB over total variation", restored - smooth, ">= 2",
               restored - smooth >= 2),
    ]  # fmt: skip


def _total_variation(noisy: Tensor, weight: float) -> Tensor:
    smooth = [denoise_tv_chambolle(picture[0].numpy(), weight=weight) for picture in noisy]
    return torch.from_numpy(np.stack(smooth))[:, None].float()


def contractive(steps: int = 1000) -> list[Figure]:
    """Rifai et al. 2011: the squared norm of the latents' derivative falls with its weight, below
    what a decay of weights leaves at the same error. It falls partly because latents shrink, so
    that nothing of robustness follows.
    """
    learnt, held = digits()[0], digits()[2]

    def measured(weight: float, decay: float) -> tuple[float, float]:
        made = trained(Identity(32), learnt, L2(), steps, dense=Dense((128,), "tanh"),
                       optimizer=AdamW(2e-3, weight_decay=decay, schedule="cosine"),
                       terms={"contraction": Jacobian(weight)} if weight else {})  # fmt: skip
        error = (made.reconstruct(held) - held).square().mean().item()
        return error, squared_norm(made, held)

    contracted = [measured(weight, 0.0) for weight in (0.0, 0.03, 0.1, 0.3)]
    decayed = sorted(measured(0.0, decay) for decay in (0.3, 1.0, 3.0, 10.0))
    norms = [norm for _, norm in contracted]
    falls = min(a / b for a, b in pairwise(norms))
    errors, others = np.log(np.array(decayed)).T
    inside = [(e, n) for e, n in contracted[1:] if errors[0] <= np.log(e) <= errors[-1]]
    parts = [n / np.exp(np.interp(np.log(e), errors, others)) for e, n in inside]
    part = max(parts, default=float("inf"))
    said = ", ".join(f"{e:.4f}: {n:.2f}" for e, n in contracted)
    control = "by decay " + ", ".join(f"{e:.4f}: {n:.2f}" for e, n in decayed)
    return [
        Figure("contractive: least fall of the squared norm from a weight to the next, times",
               falls, "> 1", falls > 1, f"error: norm {said}"),
        Figure("contractive: squared norm at equal error, of weight decay's", part, "< 0.5",
               part < 0.5, control),
    ]  # fmt: skip


def squared_norm(tokenizer: ImageTokenizer, images: Tensor) -> float:
    """Of the latents' derivative, the mean over images."""
    seen = images.clone().requires_grad_()
    chance = [torch.Generator() for _ in images]
    return Exact().squared_norm(tokenizer.latents(seen), seen, chance).mean().item()
