"""Factors that cause one another, in a given order (Yang et al. 2021, CausalVAE)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent, check_weight
from calotype.tokenizers.bottlenecks.chance import normal
from calotype.training.noise import Generators
from calotype.training.objective import Batch

FACTORS = "factors"
"""What a batch calls the true factors of its pictures."""
LEAST_DEVIATION = 0.01
"""Of what a factor's causes do not explain; factors have deviation 1."""


@dataclass(frozen=True)
class Causal:
    """z is the true factors of a picture, of which each is a function of those before it and of
    something of its own: z_i = f_i(A_i * z) + e_i. The encoder reads e; what causes what, A, and
    how, f, are learnt from the data's factors, which every batch must have.

    It is supervised, and the order must be given: labels alone do not orient an edge, because what
    an effect is a function of can be told from the effect. And z has no channels besides: a decoder
    would read the picture off those, and `do` change nothing, however well z foretells the labels.

    Raises:
        ValueError: a number is not possible.
    """

    order: tuple[int, ...] = (0, 1, 2, 3)
    """The data's factors, by their places there, causes before effects."""
    hidden: int = 32
    """Units of each f."""
    labels: float = 1.0
    """Weight of the squared distance of z from the true factors, a mean over these."""
    mechanisms: float = 1.0
    """Weight of the squared error of f on the true factors, a mean over these."""
    sparsity: float = 0.01
    """Weight of the sum of |A|: a cause that explains nothing is none."""
    kl_weight: float = 1e-3
    """Weight of the Kullback-Leibler divergence of e to N(0, s), s learnt for each, in nats per
    image, once the whole loss is divided by the image's C*H*W."""

    def __post_init__(self) -> None:
        if len(self.order) < 1 or sorted(self.order) != list(range(len(self.order))):
            raise ValueError(
                f"bottleneck.order is {self.order}: it names each of 0 to {len(self.order) - 1} "
                "once, causes before effects"
            )
        if self.hidden < 1:
            raise ValueError(f"bottleneck.hidden is {self.hidden}: it must be at least 1")
        for name in ("labels", "mechanisms", "sparsity", "kl_weight"):
            check_weight(f"bottleneck.{name}", getattr(self, name))

    @property
    def channels(self) -> int:
        """Of z: the factors."""
        return len(self.order)

    @property
    def inputs(self) -> int:
        """Channels that it is given: mean and log-variance of each e."""
        return 2 * self.channels

    def build(self) -> "CausalBottleneck":
        """Make the bottleneck."""
        return CausalBottleneck(self)

    def autoencoder(self, **settings: Any) -> "diffusers.AutoencoderKL":
        """There is none.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "bottleneck is Causal, and its factors are of whole pictures: choose "
            "model.backbone:pooled or model.backbone:dense, which end in a vector"
        )


class CausalBottleneck(Bottleneck):
    """From what is each factor's own to the factors; float32 throughout."""

    exported = may_scale = False
    has_prior = True

    def __init__(self, spec: Causal) -> None:
        super().__init__()
        self.spec, self.z_channels = spec, spec.channels
        self.mechanisms = Mechanisms(spec.order, spec.hidden)
        self.log_deviation = nn.Parameter(torch.zeros(spec.channels))

    def told(self, batch: Batch) -> dict[str, Tensor]:
        """The true factors.

        Raises:
            ValueError: the data does not tell them, or others.
        """
        count = self.z_channels
        found = batch.get(FACTORS)
        if found is None or found.shape[1] != count:
            has = "none" if found is None else str(found.shape[1])
            raise ValueError(
                f"bottleneck is Causal and learns from {count} true factors of each picture, and "
                f"data has {has}: choose data:pendulum, or name as many in model.bottleneck.order"
            )
        return {FACTORS: found}

    def forward(
        self, h: Float[Tensor, "b in 1 1"], generator: Generators | None = None,
        factors: Float[Tensor, "b c"] | None = None,
    ) -> Latent:  # fmt: skip
        """Draw e, and what follows of it. Penalties, where the true factors are told: `labels`,
        `mechanisms`, and `sparsity`, which is the same for every sample.
        """
        with torch.autocast(h.device.type, enabled=False):
            mean, log_variance = self._moments(h)
            z = self.mechanisms(mean + (log_variance / 2).exp() * normal(mean, generator))
            divergence = self._divergence(mean, log_variance)
            told = {} if factors is None else self._supervised(mean, factors.float())
            rates = {"kl": self.spec.kl_weight * divergence}
            return Latent(_site(z), None, rates, told, divergence)

    @torch.no_grad()
    def weigh(
        self, h: Float[Tensor, "b in 1 1"], generator: Generators | None = None
    ) -> tuple[Float[Tensor, "b c 1 1"], Float[Tensor, " b"]]:
        """Draw z, which has the density of its e: each factor is shifted by those before it."""
        mean, log_variance = self._moments(h)
        noise = normal(mean, generator)
        e = mean + (log_variance / 2).exp() * noise
        scaled = e * (-self._log_deviation).exp()
        ratio = (noise.square() - scaled.square() + log_variance) / 2 - self._log_deviation
        return _site(self.mechanisms(e)), ratio.sum(1)

    def mode(self, h: Float[Tensor, "b in 1 1"]) -> Float[Tensor, "b c 1 1"]:
        """The factors of the likeliest e."""
        return _site(self.mechanisms(self._moments(h)[0]))

    def pack(self, h: Float[Tensor, "b in 1 1"]) -> Float[Tensor, "b in 1 1"]:
        """Keep the moments, so that every epoch can draw afresh."""
        return h.float()

    def unpack(
        self, packed: Float[Tensor, "b in 1 1"], generator: Generators | None = None
    ) -> Float[Tensor, "b c 1 1"]:
        """Draw z."""
        return self(packed, generator).z

    @torch.no_grad()
    def do(
        self, z: Float[Tensor, "b c 1 1"], factor: int, value: float | Float[Tensor, " b"]
    ) -> Float[Tensor, "b c 1 1"]:
        """Set a factor, whatever its causes are, and let its effects follow; all else, what is the
        other factors' own too, stays as it is (Pearl 2009, section 7.1).

        Args:
            z: Factors of some pictures, as `mode` gives.
            factor: Which, by its place in the data.
            value: To what, in standard deviations over the data.
        """
        own = self.mechanisms.own(z.flatten(1))
        return _site(self.mechanisms(own, {factor: torch.as_tensor(value).to(own)}))

    def sample_prior(
        self, height: int, width: int, generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """Factors as they come about, one latent for each generator."""
        assert height == width == 1
        noise = normal(self.log_deviation.new_empty(len(generator), self.z_channels), generator)
        return _site(self.mechanisms(noise * self._log_deviation.exp()))

    @property
    def _log_deviation(self) -> Float[Tensor, " c"]:
        return self.log_deviation.clamp_min(math.log(LEAST_DEVIATION))

    def _moments(
        self, h: Float[Tensor, "b in 1 1"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        mean, log_variance = h.float().flatten(1).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def _divergence(
        self, mean: Float[Tensor, "b c"], log_variance: Float[Tensor, "b c"]
    ) -> Float[Tensor, " b"]:
        log_s2 = 2 * self._log_deviation
        scaled = (mean.square() + log_variance.exp()) * (-log_s2).exp()
        return 0.5 * (scaled - 1 - log_variance + log_s2).sum(1)

    def _supervised(
        self, mean: Float[Tensor, "b c"], factors: Float[Tensor, "b c"]
    ) -> dict[str, Float[Tensor, " b"]]:
        spec, edges = self.spec, self.mechanisms.edges
        likeliest = self.mechanisms(mean)
        return {
            "labels": spec.labels * (likeliest - factors).square().mean(1),
            "mechanisms": spec.mechanisms * self.mechanisms.own(factors).square().mean(1),
            "sparsity": spec.sparsity * edges.abs().sum().expand(len(mean)),
        }


class Mechanisms(nn.Module):
    """f and A: how each factor follows from those before it."""

    def __init__(self, order: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        count, self.order = len(order), order
        place = torch.tensor(order).argsort()
        self.register_buffer("before", (place[:, None] < place).float(), persistent=False)
        self.before: Tensor
        self.weight = nn.Parameter(torch.ones(count, count))
        self.into = nn.Parameter(torch.randn(count, hidden, count) / math.sqrt(count))
        self.bias = nn.Parameter(torch.zeros(count, hidden))
        self.out = nn.Parameter(torch.randn(count, hidden) / math.sqrt(hidden))
        self.shift = nn.Parameter(torch.zeros(count))

    @property
    def edges(self) -> Float[Tensor, "causes effects"]:
        """A: how much of each factor the function of each other sees; 0 against the order."""
        return self.weight * self.before

    def forward(
        self, own: Float[Tensor, "b c"], fixed: dict[int, Tensor] | None = None
    ) -> Float[Tensor, "b c"]:
        """Factors of what is their own, one after another; those that are fixed follow nothing."""
        found: dict[int, Tensor] = {}
        for i in self.order:
            if fixed is not None and i in fixed:
                found[i] = fixed[i].expand(len(own))
                continue
            seen = torch.stack([found.get(j, torch.zeros_like(own[:, 0])) for j in self._all], 1)
            found[i] = self._effect(i, seen) + own[:, i]
        return torch.stack([found[i] for i in self._all], dim=1)

    def own(self, factors: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """What of each factor does not follow from those before it."""
        effects = [self._effect(i, factors) for i in self._all]
        return factors - torch.stack(effects, dim=1)

    def _effect(self, i: int, factors: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
        causes = factors * self.edges[:, i]
        return (causes @ self.into[i].T + self.bias[i]).tanh() @ self.out[i] + self.shift[i]

    @property
    def _all(self) -> range:
        return range(len(self.order))


def _site(vector: Float[Tensor, "b c"]) -> Float[Tensor, "b c 1 1"]:
    return vector[:, :, None, None]
