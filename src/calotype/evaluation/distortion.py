"""How far reconstructions are from their originals, image by image."""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from calotype.tokenizers.terms.base import Term


def distortion(
    real: UInt8[Tensor, "b c H W"], fake: UInt8[Tensor, "b c H W"], lpips: Mapping[str, Term]
) -> dict[str, Float[Tensor, " b"]]:
    """PSNR in dB and SSIM (Wang et al. 2004) of images of 8 bits, by torchmetrics, and LPIPS by the
    given backbones: "psnr_db", "ssim", "lpips_alex" and the like.

    An image that came back exactly has a PSNR of infinity. Of images with alpha, PSNR and SSIM are
    those on white, beside "psnr_alpha_db"; LPIPS is the mean of that on white and that on black.
    """
    return Originals(real, lpips).distortion(fake)


class Originals:
    """Images of 8 bits with which several others are compared: what LPIPS reads of them, it reads
    once.
    """

    @torch.no_grad()
    def __init__(self, images: UInt8[Tensor, "b c H W"], lpips: Mapping[str, Term]) -> None:
        self._levels, device = _levels(images), images.device
        self._lpips = {name: term.beside(_signed(self._levels, device))
                       for name, term in lpips.items()}  # fmt: skip

    @torch.no_grad()
    def distortion(self, fake: UInt8[Tensor, "b c H W"]) -> dict[str, Float[Tensor, " b"]]:
        """Of others, as the function of that name tells it."""
        from torchmetrics.functional.image import (
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        a, b = _levels(fake), self._levels
        psnr = partial(peak_signal_noise_ratio, data_range=1.0, reduction="none", dim=(1, 2, 3))
        seen = a[:, :3], b[:, :3]
        found = {
            "psnr_db": psnr(*seen),
            "ssim": structural_similarity_index_measure(*seen, data_range=1.0, reduction="none"),
        }
        if a.shape[1] == 4:
            found["psnr_alpha_db"] = psnr(a[:, 3:], b[:, 3:])
        for name, score in self._lpips.items():
            found[f"lpips_{name}"] = score(_signed(a, fake.device))
        return {name: torch.atleast_1d(values).cpu() for name, values in found.items()}


def _levels(images: UInt8[Tensor, "b c H W"]) -> Float64[Tensor, "b c H W"]:
    """In [0, 1]; float64, because SSIM's variances are differences of nearly equal numbers. MPS has
    none.
    """
    return (images.cpu() if images.is_mps else images).double() / 255


def _signed(levels: Float64[Tensor, "b c H W"], device: torch.device) -> Float[Tensor, "b c H W"]:
    """In [-1, 1], as terms see them."""
    return (2 * levels.float() - 1).to(device)
