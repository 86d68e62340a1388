"""A batch of pictures and what a tokenizer makes of them, each computed when first asked for."""

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.training.images import Pixels, sent_images


class Encoded:
    """Pictures as scores look at them; nothing is drawn, and there are no gradients.

    Args:
        tokenizer: By which.
        images: Of 8 bits, or in [-1, 1].
    """

    def __init__(self, tokenizer: ImageTokenizer, images: Pixels) -> None:
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
