"""Images as numbers: of 8 bits until they are on the device, and as those see them who take RGB.

One channel is grey, three are sRGB. Four are colours over white and alpha: premultiplied, because
whatever a transparent pixel hides is white then and costs nothing, and an error weighs as much as
it is seen; over white, because the first three are then the picture as RGB has it.
"""

from typing import Literal

import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor

from calotype.training.memory import as_floats
from calotype.training.noise import sent
from calotype.training.objective import Batch

Mode = Literal["L", "RGB", "RGBA"]
"""Pillow's names: grey, colours, colours and alpha."""
CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3, "RGBA": 4}
Pixels = Float[Tensor, "b c H W"] | UInt8[Tensor, "b c H W"]
"""Images in [-1, 1], or of 8 bits."""
CHECKS = 0.55, 1.0
"""Levels of the checkerboard under what is transparent, in [0, 1]."""


def scaled(
    images: UInt8[Tensor, "*n c H W"] | Float[Tensor, "*n c H W"],
) -> Float[Tensor, "*n c H W"]:
    """Levels of 8 bits in [-1, 1], where they are; what is floating already stays as it is."""
    if images.dtype != torch.uint8:
        return images
    # Not by a number: CUDA would multiply by its inverse, and a last bit would be another.
    white = torch.full((), 127.5, device=images.device)
    return as_floats(images).div_(white).sub_(1)


def sent_images(images: Pixels, device: torch.device) -> Float[Tensor, "b c H W"]:
    """Images in [-1, 1] on a device, to which 8 bits travel."""
    return scaled(sent(images, device))


def sent_batch(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device, its images in [-1, 1]; from the loader's pinned memory nobody waits."""
    moved = {name: value.to(device, non_blocking=True)
             for name, value in batch.items() if isinstance(value, Tensor)}  # fmt: skip
    if "image" in moved:
        moved["image"] = scaled(moved["image"])
    return {**batch, **moved}


def in_colour(images: Num[Tensor, "b c H W"]) -> Num[Tensor, "b 3 H W"]:
    """[b 3 H W] for networks that know nothing else, of [b c H W]: grey is repeated, alpha is left
    out, which leaves the picture on white.
    """
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]


def over_black(images: Float[Tensor, "b 4 H W"]) -> Float[Tensor, "b 3 H W"]:
    """The same picture on black, in [-1, 1]: as much darker everywhere as it is transparent."""
    return images[:, :3] + images[:, 3:] - 1


def visible(images: Float[Tensor, "n c H W"]) -> Float[Tensor, "n 3 H W"]:
    """Images in [-1, 1] as one looks at them: grey in three channels, alpha over a checkerboard."""
    images = images.float().clamp(-1, 1)
    if images.shape[1] != 4:
        return in_colour(images)
    # White is taken away where it is seen through, and the ground put there. What a decoder emits
    # may be darker than anything is on white that is seen through.
    through = (1 - images[:, 3:]) / 2
    return (images[:, :3] - 2 * through * (1 - _checks(images))).clamp(-1, 1)


def _checks(images: Float[Tensor, "n c H W"]) -> Float[Tensor, "H W"]:
    """Levels of a checkerboard, eight squares to the shorter side."""
    height, width = images.shape[-2:]
    side = max(1, min(height, width) // 8)
    rows, columns = (torch.arange(n, device=images.device) // side for n in (height, width))
    odd = (rows[:, None] + columns) % 2 == 1
    dark, light = (images.new_full((), level) for level in CHECKS)
    return torch.where(odd, dark, light)
