"""What papers claim of the family, with the controls that such a claim needs (docs/family.md).

Digits are scikit-learn's, 1,437 to learn and 360 to measure; seeds are said.
"""

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_tv_chambolle

import tiny
from calotype.data.digits import EVERY, digits
from calotype.tokenizers import ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import BottleneckSpec, Gaussian, Identity
from calotype.tokenizers.corruptions import Corruption, GaussianNoise
from calotype.tokenizers.priors import OneGaussian, fit_prior
from calotype.tokenizers.terms import L2, FixedDeviation, GaussianLikelihood, Pixel
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW, Run, fit

pytestmark = pytest.mark.slow


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """To learn and to measure, [n, 1, 8, 8] in [-1, 1]."""
    pixels = torch.from_numpy(digits()[0]).float()[:, None] / 127.5 - 1
    test = torch.arange(len(pixels)) % EVERY == 0
    return pixels[~test], pixels[test]


def trained(
    out, bottleneck: BottleneckSpec, pixel: Pixel | None = None, dense: Dense | None = None,
    corruption: Corruption | None = None, steps: int = 2500, batch_size: int = 64,
    lr: float = 1e-3, images: torch.Tensor | None = None, seed: int = 0, **optimizer,
) -> ImageTokenizer:  # fmt: skip
    """Trained by `fit`, as any recipe is."""
    torch.manual_seed(seed)
    pixel = pixel or L2()
    backbone = dense or Dense((256, 256))
    tokenizer = ImageTokenizer(backbone.autoencoder(bottleneck, 8, 1, pixel.maps),
                               bottleneck.build())  # fmt: skip
    objective = Reconstruction(tokenizer, {"pixel": (1.0, pixel.build())},
                               AdamW(lr, schedule="cosine", **optimizer),
                               corruption=corruption)  # fmt: skip
    rows = {"image": pictures()[0] if images is None else images}
    run = Run(out, steps=steps, batch_size=batch_size, ema=None, clip=None, precision="fp32",
              save_every=10**6, log_every=10**3, seed=seed)  # fmt: skip
    fit([objective], tiny.Repeating(rows, batch_size), run)
    return tokenizer.eval()


def test_a_linear_autoencoder_finds_the_principal_subspace_and_not_its_axes(tmp_path):
    """Baldi & Hornik 1989; Kunin et al. 2019: the subspace, "but not the principal directions"."""
    learnt = pictures()[0]
    tokenizer = trained(tmp_path, Identity(8), dense=Dense(()), steps=3000, images=learnt,
                        batch_size=len(learnt), lr=3e-2, betas=(0.9, 0.99))  # fmt: skip
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
    print(f"largest angle {angle:.4f} degrees, error {ratio:.6f} of PCA's, axes lean {lean:.2f}")
    assert angle < 0.5 and ratio < 1.001 and lean > 0.05


def test_an_autoencoder_beats_as_many_principal_components(tmp_path):
    """With 8 numbers: an error below 0.7 of theirs on digits that were not learnt."""
    learnt, held = pictures()
    tokenizer = trained(tmp_path, Identity(8))
    flat, test = learnt.flatten(1), held.flatten(1)
    _, _, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    best = (test - flat.mean(0)) @ axes[:8].T @ axes[:8] + flat.mean(0)
    own = (tokenizer.reconstruct(held) - held).square().mean()
    assert own / (best - test).square().mean() < 0.7


def test_a_denoiser_is_better_than_a_plain_one_that_is_fed_noise(tmp_path):
    """Vincent et al. 2010. Any bottleneck takes some noise away: the plain one is the control, and
    total variation (Chambolle 2004) what needs no learning, at the best of its weights. Of a plain
    one that was trained no longer than this, 4 dB over it were not reached: it is no copy yet.
    """
    held, corruption = pictures()[1], GaussianNoise(0.6)
    plain = trained(tmp_path / "plain", Identity(32))
    own = trained(tmp_path / "own", Identity(32), corruption=corruption)
    noisy = corruption(held, [torch.Generator().manual_seed(i) for i in range(len(held))]).images
    seen = psnr_of(noisy, held)
    fed, restored = (psnr_of(each.reconstruct(noisy), held) for each in (plain, own))
    smooth = max(psnr_of(total_variation(noisy, weight), held) for weight in (0.1, 0.2, 0.4, 0.8))
    print(f"noisy {seen:.2f} dB, plain {fed:.2f}, total variation {smooth:.2f}, own {restored:.2f}")
    assert restored >= seen + 5 and restored >= fed + 1.5 and restored >= smooth + 2


def psnr_of(fake: torch.Tensor, real: torch.Tensor) -> float:
    """Of all pictures together, unclipped, as noise has it too."""
    return -10 * np.log10((fake - real).square().mean().item() / 4)


def total_variation(noisy: torch.Tensor, weight: float) -> torch.Tensor:
    smooth = [denoise_tv_chambolle(picture[0].numpy(), weight=weight) for picture in noisy]
    return torch.from_numpy(np.stack(smooth))[:, None].float()


def test_a_variational_autoencoder_draws_and_a_fitted_prior_lets_a_plain_one_draw(tmp_path):
    """Kingma & Welling 2014; Ghosh et al. 2020: what is decoded from N(0, 1) is at least three
    times nearer to the data than from a plain autoencoder, and a Gaussian that is fitted to its
    latents closes that gap.
    """
    learnt, held = pictures()
    pixel = GaussianLikelihood(deviation=FixedDeviation(0.2))
    variational = trained(tmp_path / "vae", Gaussian(8, kl_weight=1.0, keep_prior=True), pixel)
    plain = trained(tmp_path / "ae", Identity(8))
    chance = [torch.Generator().manual_seed(i) for i in range(1437)]
    unit = torch.stack([torch.randn(8, 1, 1, generator=g) for g in chance])
    batches = [{"image": learnt, "key": list(range(len(learnt)))}]
    fitted = fit_prior(plain, batches, OneGaussian()).draw(chance)
    with torch.no_grad():
        own, gaps, closed = (each.decode(z) for each, z in
                             ((variational, unit), (plain, unit), (plain, fitted)))  # fmt: skip
    far = [frechet(each, learnt) for each in (own, gaps, closed)]
    print("Frechet distance of 16 components: variational {:.3f}, plain {:.3f}, plain with a "
          "fitted prior {:.3f}; held out {:.3f}".format(*far, frechet(held, learnt)))  # fmt: skip
    assert far[1] >= 3 * far[0] and far[2] <= 1.5 * far[0]


def frechet(drawn: torch.Tensor, real: torch.Tensor) -> float:
    """Between Gaussians fitted to 16 principal components, of images in [0, 1]."""
    from scipy.linalg import sqrtm

    flat = ((real + 1) / 2).flatten(1).double().numpy()
    mean = flat.mean(0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:16].T
    both = [(((x + 1) / 2).flatten(1).double().numpy() - mean) @ axes for x in (drawn, real)]
    means, covariances = [x.mean(0) for x in both], [np.cov(x.T) for x in both]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(sum(covariances) - 2 * root))
