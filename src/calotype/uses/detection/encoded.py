"""A batch of pictures and what a tokenizer makes of them, each computed when first asked for."""

from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.training.images import sent_images

Images = Float[Tensor, "_ _ _ _"] | UInt8[Tensor, "_ _ _ _"]
"""Images [n c H W], in [-1, 1] or of 8 bits."""


class Encoded:
    """Pictures as scores look at them; nothing is drawn, and there are no gradients.

    Args:
        tokenizer: By which.
        images: Of 8 bits, or in [-1, 1].
    """

    def __init__(self, tokenizer: ImageTokenizer, images: Images) -> None:
        self.tokenizer = tokenizer
        self.images = sent_images(images, tokenizer.weight.device)

    @cached_property
    @torch.no_grad()
    def features(self) -> Float[Tensor, "b in h w"]:
        """What the bottleneck reads."""
        return self.tokenizer.features(self.images)

    @cached_property
    @torch.no_grad()
    def codes(self) -> Int[Tensor, "b ..."]:
        """As `ImageTokenizer.encode_ids`."""
        return self.tokenizer.bottleneck.pack(self.features)

    @cached_property
    @torch.no_grad()
    def latents(self) -> Float[Tensor, "b z h w"]:
        """The likeliest."""
        return self.tokenizer.bottleneck.mode(self.features)

    @cached_property
    @torch.no_grad()
    def rebuilt(self) -> Float[Tensor, "b c H W"]:
        """The likeliest latents, decoded."""
        return self.tokenizer.decode(self.latents)
