"""How far reconstructions are from their originals, image by image."""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from calotype.tokenizers.terms.base import Term


@torch.no_grad()
def distortion(
    real: UInt8[Tensor, "b c H W"], fake: UInt8[Tensor, "b c H W"], lpips: Mapping[str, Term]
) -> dict[str, Float[Tensor, " b"]]:
    """PSNR in dB and SSIM (Wang et al. 2004) of images of 8 bits, by torchmetrics, and LPIPS by the
    given backbones: "psnr_db", "ssim", "lpips_alex" and the like.

    An image that came back exactly has a PSNR of infinity. Of images with alpha, PSNR and SSIM are
    those on white, beside "psnr_alpha_db"; LPIPS is the mean of that on white and that on black.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    # Float64, because SSIM's variances are differences of nearly equal numbers; MPS has none.
    a, b = ((each.cpu() if each.is_mps else each).double() / 255 for each in (fake, real))
    psnr = partial(peak_signal_noise_ratio, data_range=1.0, reduction="none", dim=(1, 2, 3))
    seen = a[:, :3], b[:, :3]
    found = {
        "psnr_db": psnr(*seen),
        "ssim": structural_similarity_index_measure(*seen, data_range=1.0, reduction="none"),
    }
    if a.shape[1] == 4:
        found["psnr_alpha_db"] = psnr(a[:, 3:], b[:, 3:])
    for name, term in lpips.items():
        found[f"lpips_{name}"] = term(*((2 * each.float() - 1).to(fake.device) for each in (a, b)))
    return {name: torch.atleast_1d(values).cpu() for name, values in found.items()}
