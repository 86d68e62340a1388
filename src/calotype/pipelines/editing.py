"""Drawing over a picture, all of it or a part, by the stock pipelines for that."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.lazy import diffusers

INPAINTED = (4, 9)
"""Channels that the UNets of stock inpainting read: latents of four, or these, a mask and what it
leaves."""


@dataclass(frozen=True)
class Over:
    """A picture that images are drawn over."""

    image: Float[Tensor, "c H W"]
    """In [-1, 1]."""
    strength: float
    """How much of the way from noise is gone, in (0, 1]: the less, the nearer to the picture."""
    mask: Float[Tensor, "1 H W"] | None = None
    """1 where it is drawn anew, 0 where it stays; None: all of it is."""

    def editor(self, pipeline: "diffusers.DiffusionPipeline") -> "diffusers.DiffusionPipeline":
        """The stock pipeline that does it with another one's parts.

        Raises:
            ValueError: there is none for such parts.
        """
        if len(self.image) == 4:
            raise ValueError(
                "--image: stock pipelines take a picture with alpha, which has four channels, for "
                "a latent: choose a pipeline without alpha"
            )
        kind: Any = (diffusers.AutoPipelineForImage2Image if self.mask is None
                     else diffusers.AutoPipelineForInpainting)  # fmt: skip
        try:
            made = kind.from_pipe(pipeline)
        except ValueError as error:
            raise ValueError(
                f"--image: diffusers draws over no picture by a {type(pipeline).__name__}: choose "
                "a diffusion pipeline that reads prompts"
            ) from error
        unet = getattr(made, "unet", None)
        if self.mask is not None and unet and unet.config.in_channels not in INPAINTED:
            raise ValueError(
                f"--image.mask: diffusers inpaints in latents of 4 channels, and this pipeline's "
                f"have {unet.config.in_channels}: leave the mask out"
            )
        return made

    def check(self, steps: int | None) -> None:
        """Refuse a strength that leaves none of so many steps.

        Raises:
            ValueError: it does.
        """
        if steps is not None and int(steps * self.strength) < 1:
            raise ValueError(
                f"--image.strength is {self.strength}, which leaves none of {steps} steps: give "
                f"{1 / steps:.2g} or more, or more steps"
            )

    def told(self, count: int) -> dict[str, Any]:
        """Arguments of the editor's call for so many images."""
        shown = (self.image / 2 + 0.5).expand(count, -1, -1, -1)
        told: dict[str, Any] = {"image": shown, "strength": self.strength}
        if self.mask is not None:
            height, width = self.image.shape[-2:]
            mask = self.mask.expand(count, -1, -1, -1)
            told |= {"mask_image": mask, "height": height, "width": width}
        return told

    def kept(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        """Images as drawn, but the picture itself where the mask lets it stay."""
        return images if self.mask is None else torch.where(self.mask > 0, images, self.image)
