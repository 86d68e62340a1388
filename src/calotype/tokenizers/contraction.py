"""Contractive autoencoders: latents that change little where images do."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.attention import SDPBackend, sdpa_kernel

from calotype.tokenizers.bottlenecks.base import check_weight
from calotype.tokenizers.encoder_terms import EncoderTerm, Seen
from calotype.tokenizers.gradients import Images
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training.noise import Generators, gaussian
from calotype.training.precision import UNSCALED, gradient


@dataclass(frozen=True)
class Exact:
    """Row by row: as many passes back through the encoder as a latent has numbers."""

    def squared_norm(
        self, latents: Float[Tensor, "b z h w"], images: Images, generators: Generators,
        scaler: GradScaler = UNSCALED,
    ) -> Float[Tensor, " b"]:  # fmt: skip
        """|J|^2, itself differentiable."""
        rows = latents.flatten(1).sum(0)  # images do not look at one another
        return torch.stack([_squared(row, images, scaler) for row in rows]).sum(0)


@dataclass(frozen=True)
class Hutchinson:
    """By random directions v of unit normal numbers, of which |v J|^2 has the mean |J|^2
    (Hutchinson 1990): one pass back for each.
    """

    draws: int = 1
    """Directions for each image."""

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"contraction.norm.draws is {self.draws}: it must be at least 1")

    def squared_norm(
        self, latents: Float[Tensor, "b z h w"], images: Images, generators: Generators,
        scaler: GradScaler = UNSCALED,
    ) -> Float[Tensor, " b"]:  # fmt: skip
        """An estimate of |J|^2 without bias, itself differentiable; directions are each image's
        own.
        """
        found = [
            _squared((latents * gaussian(latents.shape[1:], generators, latents.device)).sum(),
                     images, scaler)
            for _ in range(self.draws)
        ]  # fmt: skip
        return torch.stack(found).mean(0)


@dataclass(frozen=True)
class Jacobian(EncoderTerm):
    """The squared norm of the likeliest latents' derivative by the image that is encoded (Rifai et
    al. 2011, eq. 7). It falls too if latents merely shrink, which their decoder undoes: compare
    such latents by what noise does to them in units of their own spread.
    """

    weight: float = 0.1
    """lambda, beside an error that is summed over the picture: the norm is divided by the image's
    C*H*W."""
    norm: Exact | Hutchinson = field(default_factory=Hutchinson)
    """How it is found."""

    def __post_init__(self) -> None:
        check_weight("contraction.weight", self.weight)

    def __call__(self, tokenizer: ImageTokenizer, seen: Seen) -> Float[Tensor, " b"]:
        """The weighted norm."""
        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            images = seen.corrupted.detach().requires_grad_()
            latents = tokenizer.latents(images)
            squared = self.norm.squared_norm(latents, images, seen.generators, seen.scaler)
        return self.weight * squared / images[0].numel()


def _squared(value: Float[Tensor, ""], images: Images, scaler: GradScaler) -> Float[Tensor, " b"]:
    return gradient(value, images, scaler, create_graph=True).square().sum((1, 2, 3))
