"""What densities are fitted to: vectors at the sites of a grid, of a tokenizer or of pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.vector import VectorAutoencoder
from calotype.uses.detection.encoded import Encoded

Features = Callable[[Encoded], Float[Tensor, "b d h w"]]

COARSENED = 4
"""Pixels a side of a site of an encoder's maps, at most."""


def latents(pictures: Encoded) -> Float[Tensor, "b z h w"]:
    """The likeliest latents."""
    return pictures.latents.float()


def read_by_bottleneck(pictures: Encoded) -> Float[Tensor, "b in h w"]:
    """What a bottleneck of codes reads: latents before they are rounded."""
    return pictures.features.float()


@dataclass(frozen=True)
class EncoderMaps:
    """What each level of an encoder of ours or of a stock autoencoder gives, averaged over 3x3
    sites as PatchCore has it, on the grid of the latents or a finer one of `COARSENED` pixels.
    """

    most: int = 192
    """Channels; of more, so many random projections."""

    @torch.no_grad()
    def __call__(self, pictures: Encoded) -> Float[Tensor, "b d h w"]:
        """Encode once more, and listen."""
        encoder = pictures.tokenizer.autoencoder.encoder
        heard: list[Tensor] = []
        hooks = [level.register_forward_hook(lambda module, given, out: heard.append(out))
                 for level in [*encoder.down_blocks, encoder.mid_block]]  # fmt: skip
        try:
            pictures.tokenizer.features(pictures.images)
        finally:
            for hook in hooks:
                hook.remove()
        high, wide = pictures.images.shape[-2:]
        grid = (
            max(heard[-1].shape[-2], high // COARSENED),
            max(heard[-1].shape[-1], wide // COARSENED),
        )
        found = torch.cat([_on_grid(each.float(), grid) for each in heard], 1)
        return found if found.shape[1] <= self.most else _projected(found, self.most)


def has_maps(tokenizer: ImageTokenizer) -> bool:
    """Whether its encoder has levels that can be listened to."""
    if isinstance(tokenizer.autoencoder, VectorAutoencoder):
        return False
    return hasattr(getattr(tokenizer.autoencoder, "encoder", None), "down_blocks")


@dataclass(frozen=True)
class Patches:
    """The pixels of squares, of which an image has as many as its latents have sites: what asks
    for no network at all.
    """

    side: int
    """Pixels."""

    def __call__(self, pictures: Encoded) -> Float[Tensor, "b d h w"]:
        """Cut up."""
        return functional.pixel_unshuffle(pictures.images.float(), self.side)


def _on_grid(maps: Float[Tensor, "b d ..."], grid: tuple[int, int]) -> Float[Tensor, "b d h w"]:
    smooth = functional.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
    if maps.shape[-2] > grid[0]:
        return functional.adaptive_avg_pool2d(smooth, grid)
    return functional.interpolate(smooth, grid, mode="bilinear", align_corners=False)


def _projected(maps: Float[Tensor, "b d h w"], count: int) -> Float[Tensor, "b k h w"]:
    """Orthonormal directions of a seed, which keep distances as well as so many can."""
    chance = torch.Generator().manual_seed(0)
    drawn = torch.randn(maps.shape[1], count, generator=chance)
    directions = torch.linalg.qr(drawn).Q.T.to(maps.device)
    return nn.functional.conv2d(maps, directions[:, :, None, None])
