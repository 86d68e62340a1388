"""Latents on circles and spheres, for what turns and comes back: a line must tear where such a
thing closes (Davidson et al. 2018; Falorsi et al. 2018; Perez Rey et al. 2019).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent, check_weight
from calotype.tokenizers.bottlenecks.chance import exponential, normal
from calotype.training.noise import Generators

NODES = 256
"""Angles at which a density is known."""
REACH = 8.0
"""Deviations from the mean direction within which all of a density lies, in float32."""
LEAST_LOG, MOST_LOG = -10.0, 12.0
"""Of concentrations: from what is uniform to an angle of 0.0025."""


@dataclass(frozen=True)
class OnSpheres(ABC):
    """What `Sphere` and `Circle` share."""

    count: int = 1
    """Of spheres; z is a point on each."""
    kl_weight: float = 1.0
    """Weight of the Kullback-Leibler divergence to the uniform distribution, in nats per image,
    once the whole loss is divided by the image's C*H*W; 1 beside a likelihood makes an ELBO."""
    concentration: float = 10.0
    """Of the posteriors before training: of a von Mises-Fisher distribution, whose angle to its
    mean has a deviation of about 1 / sqrt(concentration)."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"bottleneck.count is {self.count}: it must be at least 1")
        if not self.concentration > 0:
            raise ValueError(
                f"bottleneck.concentration is {self.concentration}: it must be positive"
            )
        check_weight("bottleneck.kl_weight", self.kl_weight)

    @property
    @abstractmethod
    def across(self) -> int:
        """Coordinates of a point."""

    @property
    def channels(self) -> int:
        """Channels of z."""
        return self.count * self.across

    @property
    def inputs(self) -> int:
        """Channels that it is given: the mean direction, and as many whose mean over each sphere is
        the logarithm of how much more than at first it is concentrated.
        """
        return 2 * self.channels

    def build(self) -> "SphereBottleneck":
        """Make the bottleneck."""
        return SphereBottleneck(self)

    def autoencoder(self, **settings: Any) -> "diffusers.AutoencoderKL":
        """Encoder and decoder of a stock AutoencoderKL around it; no stock class projects."""
        return diffusers.AutoencoderKL(
            latent_channels=self.channels, scaling_factor=1.0, **settings
        )


@dataclass(frozen=True)
class Sphere(OnSpheres):
    """z is a point of the unit sphere in so many dimensions (Davidson et al. 2018).

    Raises:
        ValueError: a number is not possible.
    """

    dimensions: int = 3
    """Coordinates of a point; its sphere has one less."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimensions < 2:
            raise ValueError(f"bottleneck.dimensions is {self.dimensions}: it must be at least 2")

    @property
    def across(self) -> int:
        """Coordinates of a point."""
        return self.dimensions


@dataclass(frozen=True)
class Circle(OnSpheres):
    """z is an angle, as the point (cos, sin) that the decoder can read without a jump.

    Raises:
        ValueError: a number is not possible.
    """

    @property
    def across(self) -> int:
        """Coordinates of a point."""
        return 2


class SphereBottleneck(Bottleneck):
    """Draws points by von Mises-Fisher distributions; float32 throughout.

    The angle phi to the mean direction has a density in proportion to
    sin(phi) ** (d - 2) * exp(k cos(phi)). It is drawn by its distribution function at nodes, so
    that noise is as much for every concentration, nothing is rejected, and gradients go through.
    """

    exported = may_scale = False
    has_prior = True

    def __init__(self, spec: OnSpheres) -> None:
        super().__init__()
        self.spec, self.z_channels = spec, spec.channels

    def forward(self, h: Float[Tensor, "b in h w"], generator: Generators | None = None) -> Latent:
        """Points of the spheres; the rate `kl` is the divergence to uniform ones, summed over z."""
        with torch.autocast(h.device.type, enabled=False):
            mean, log_k = self._moments(h)
            density = Density(log_k, self.spec.across)
            divergence = density.divergence().flatten(1).sum(1)
            z = _merged(turned(mean, density.angles(_uniform(log_k, generator)),
                               normal(mean, generator)))  # fmt: skip
            return Latent(z, rates={"kl": self.spec.kl_weight * divergence}, divergence=divergence)

    @torch.no_grad()
    def weigh(
        self, h: Float[Tensor, "b in h w"], generator: Generators | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
        """Draw points; the prior is uniform."""
        mean, log_k = self._moments(h)
        density = Density(log_k, self.spec.across)
        z = self(h, generator).z
        cosine = (_apart(z, mean.shape) * mean).sum(2)
        return z, -density.log_ratio(cosine).flatten(1).sum(1)

    def mode(self, h: Float[Tensor, "b in h w"]) -> Float[Tensor, "b c h w"]:
        """The mean directions."""
        return _merged(self._moments(h)[0])

    def pack(self, h: Float[Tensor, "b in h w"]) -> Float[Tensor, "b in h w"]:
        """Keep directions and concentrations, so that every epoch can draw afresh."""
        return h.float()

    def unpack(
        self, packed: Float[Tensor, "b in h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Draw z."""
        return self(packed, generator).z

    def sample_prior(
        self, height: int, width: int, generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """Points from all over the spheres, one latent for each generator."""
        like = torch.empty(len(generator), self.spec.count, self.spec.across, height, width)
        return _merged(functional.normalize(normal(like, generator), dim=2))

    def _moments(
        self, h: Float[Tensor, "b in h w"]
    ) -> tuple[Float[Tensor, "b n d h w"], Float[Tensor, "b n h w"]]:
        """Mean direction and ln concentration, of each sphere."""
        shape = self.spec.count, self.spec.across
        direction, spread = (half.unflatten(1, shape) for half in h.float().chunk(2, dim=1))
        log_k = spread.mean(2) + math.log(self.spec.concentration)
        return functional.normalize(direction, dim=2), log_k.clamp(LEAST_LOG, MOST_LOG)


class Density:
    """Of the angle between a point and its mean direction, at nodes between 0 and where nothing is
    left of it, at most pi.
    """

    def __init__(self, log_k: Float[Tensor, "*any"], across: int) -> None:
        self.k = k = log_k.exp()[..., None]
        reach = (REACH + math.sqrt(across)) / k.detach().sqrt()
        self.width = reach.clamp(max=math.pi) / NODES
        middles = (torch.arange(NODES, device=k.device) + 0.5) * self.width
        # exp(k (cos - 1)): of a large k, exp(k) is no number. cos - 1 is -2 sin(phi / 2) ** 2.
        self.tilt = -2 * (middles / 2).sin().square() * k
        volume = (across - 2) * middles.sin().clamp_min(1e-20).log()
        whole = (torch.arange(NODES, device=k.device) + 0.5) * math.pi / NODES
        all_of_it = ((across - 2) * whole.sin().log()).logsumexp(0) + math.log(math.pi / NODES)
        self.log_mass = volume + self.tilt + self.width.log()
        self.log_total = self.log_mass.logsumexp(-1, keepdim=True)
        self.log_uniform = all_of_it
        self.p = (self.log_mass - self.log_total).exp()

    def divergence(self) -> Float[Tensor, "*any"]:
        """To the uniform distribution of points, in nats: E k cos(phi) less the logarithm of its
        mean over the sphere.
        """
        return (self.p * self.tilt).sum(-1) - (self.log_total[..., 0] - self.log_uniform)

    def log_ratio(self, cosine: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Logarithm of the density at an angle, to that of the uniform distribution."""
        return self.k[..., 0] * (cosine - 1) - (self.log_total[..., 0] - self.log_uniform)

    def angles(self, uniform: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Where the distribution function is so much; within a node it is a line."""
        above = self.p.cumsum(-1)
        wanted = uniform[..., None] * above[..., -1:].detach()
        node = (above.detach() < wanted).sum(-1, keepdim=True).clamp(max=NODES - 1)
        p = self.p.gather(-1, node)
        inside = (wanted - (above.gather(-1, node) - p)) / p.clamp_min(1e-20)
        return ((node + inside) * self.width)[..., 0]


def turned(
    mean: Float[Tensor, "b n d h w"],
    angles: Float[Tensor, "b n h w"],
    noise: Float[Tensor, "b n d h w"],
) -> Float[Tensor, "b n d h w"]:
    """The mean directions turned by angles, each in that direction along the sphere in which the
    noise points.
    """
    if mean.shape[2] == 2:
        # One of two: as noise less its part along the mean, it would lose digits to a division.
        left = torch.stack([-mean[:, :, 1], mean[:, :, 0]], dim=2)
        along = torch.where((noise * left).sum(2, keepdim=True) > 0, left, -left)
    else:
        along = noise - (noise * mean).sum(2, keepdim=True) * mean
        along = functional.normalize(along, dim=2)
    return angles.cos()[:, :, None] * mean + angles.sin()[:, :, None] * along


def _uniform(like: Tensor, generator: Generators | None) -> Tensor:
    return (-exponential(like, generator)).exp()


def _apart(z: Float[Tensor, "b c h w"], shape: torch.Size) -> Float[Tensor, "b n d h w"]:
    return z.reshape(shape)


def _merged(points: Float[Tensor, "b n d h w"]) -> Float[Tensor, "b c h w"]:
    return points.flatten(1, 2)
