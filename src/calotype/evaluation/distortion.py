"""How far reconstructions are from their originals, image by image."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from calotype.tokenizers.terms.base import Term


@torch.no_grad()
def distortion(
    real: UInt8[Tensor, "b 3 H W"], fake: UInt8[Tensor, "b 3 H W"], lpips: Mapping[str, Term]
) -> dict[str, Float[Tensor, " b"]]:
    """PSNR in dB and SSIM (Wang et al. 2004) of images of 8 bits, by torchmetrics, and LPIPS by the
    given backbones: "psnr_db", "ssim", "lpips_alex" and the like.

    An image that came back exactly has a PSNR of infinity.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    # Float64, because SSIM's variances are differences of nearly equal numbers; MPS has none.
    a, b = ((each.cpu() if each.is_mps else each).double() / 255 for each in (fake, real))
    found = {
        "psnr_db": peak_signal_noise_ratio(
            a, b, data_range=1.0, reduction="none", dim=(1, 2, 3)
        ),
        "ssim": structural_similarity_index_measure(a, b, data_range=1.0, reduction="none"),
    }  # fmt: skip
    for name, term in lpips.items():
        found[f"lpips_{name}"] = term(*((2 * each.float() - 1).to(fake.device) for each in (a, b)))
    return {name: torch.atleast_1d(values).cpu() for name, values in found.items()}
