"""The bound on the likelihood of a variational autoencoder, place by place."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.lazy import diffusers
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import GaussianBottleneck
from calotype.uses.detection.encoded import Encoded
from calotype.uses.detection.score import Looked, Score


class NegativeELBO(Score):
    """-ELBO in nats of a pixel: its level's under a Gaussian around what the latents' means decode
    to, whose deviation is the one that suits normal pictures best (sigma-VAE; Rybkin et al. 2021),
    and its share of the site's divergence to N(0, 1). A mean over a picture, times its pixels, is
    the picture's. Where latents were normalised after training, N(0, 1) is what they were made to
    suit, and no prior that training paid for.
    """

    unit = "nats a pixel"

    def __init__(self) -> None:
        self.variance = 1.0

    @torch.no_grad()
    def look(self, pictures: Encoded) -> Looked:
        """Squared errors of levels, summed over channels, their number, and the divergence."""
        images = pictures.images.float()
        errors = (images - pictures.rebuilt.float()).square().sum(1, keepdim=True)
        vae = diffusers.models.autoencoders.vae
        posterior = vae.DiagonalGaussianDistribution(pictures.features.float())
        sites = (posterior.mean**2 + posterior.var - 1 - posterior.logvar).sum(1, keepdim=True) / 2
        size = images.shape[-2:]
        share = sites.shape[-2] * sites.shape[-1] / (size[0] * size[1])
        nats = functional.interpolate(sites * share, size)
        return torch.cat([errors, torch.full_like(errors, images.shape[1]), nats], 1)

    def learn(self, normal: Looked) -> None:
        """Find the deviation."""
        self.variance = max(float(normal[:, 0].mean() / normal[:, 1].mean()), 1e-8)

    def judge(self, looked: Looked) -> Float[Tensor, "n h w"]:
        """Add up."""
        errors, channels, nats = looked.unbind(1)
        constant = math.log(2 * math.pi * self.variance)
        return (errors / self.variance + channels * constant) / 2 + nats


def has_divergence(tokenizer: ImageTokenizer) -> bool:
    """Whether its latents are drawn from Gaussians."""
    return isinstance(tokenizer.bottleneck, GaussianBottleneck)
