"""Quantisation without a codebook: a code is the signs of its site's channels."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Latent, check_weight
from calotype.tokenizers.bottlenecks.discrete import Discrete, OfCodes, straight_through, vq_model
from calotype.tokenizers.bottlenecks.search import sites
from calotype.training.distributed import all_mean
from calotype.training.noise import Generators
from calotype.training.objective import Rows

MOST_BITS = 24
"""A frequency is kept for each code, and a probability in each step."""
MOST_EXPORTED_BITS = 14
"""A stock VQModel compares every site with every code, and saves them all."""
LEAST_PROBABILITY = 1e-30
"""Of a code, in float32, so that it has a logarithm."""


@dataclass(frozen=True)
class Entropy:
    """Penalties on the probabilities of codes, the softmax of 2 x.c / temperature over all corners
    c (Yu et al. 2023, section 3.1). A weight of 0: no such penalty.
    """

    sample: float = 0.1
    """Weight of the entropy of a site's code, in nats: features are to be sure of their codes."""
    codebook: float = 0.1
    """Weight, below zero in the loss, of the entropy of the codes' mean probabilities in a step, in
    nats: codes are to be used alike."""
    temperature: float = 0.01
    """Of that softmax; at 0.01, features of magnitude 0.02 are sure of their signs."""

    def __post_init__(self) -> None:
        for name in ("sample", "codebook"):
            check_weight(f"entropy.{name}", getattr(self, name))
        if not self.temperature > 0:
            raise ValueError(f"entropy.temperature is {self.temperature}: it must be positive")


@dataclass(frozen=True)
class Signs(OfCodes, ABC):
    """What `LFQ` and `BSQ` share: one bit for each channel."""

    bits: int = 14
    """Channels of z; there are 2 ** bits codes. Up to 14 a stock VQModel can hold them."""
    commitment: float = 0.25
    """Weight of the pull of features to their corners, a mean over the latent's elements; 0:
    none."""
    entropy: Entropy = field(default_factory=Entropy)
    features: int | None = None
    """Channels between encoder and `quant_conv`, and behind `post_quant_conv`; None: `bits`."""

    def __post_init__(self) -> None:
        check_weight("bottleneck.commitment", self.commitment)
        if not 1 <= self.bits <= MOST_BITS:
            raise ValueError(f"bottleneck.bits is {self.bits}: choose 1 to {MOST_BITS}")

    @property
    def channels(self) -> int:
        """Channels of z."""
        return self.bits

    @property
    @abstractmethod
    def corner(self) -> float:
        """Magnitude of a corner's coordinates."""

    @abstractmethod
    def compared(self, x: Float[Tensor, "b bits h w"]) -> Float[Tensor, "b bits h w"]:
        """Features as corners are compared with them."""

    def build(self) -> "SignQuantizer":
        """Make the bottleneck."""
        return SignQuantizer(self)

    def autoencoder(self, **settings) -> "diffusers.VQModel":
        """A stock VQModel around it."""
        codes = 2**self.bits if self.bits <= MOST_EXPORTED_BITS else 1
        return vq_model(self.channels, self.features, codes, **settings)


@dataclass(frozen=True)
class LFQ(Signs):
    """Lookup-free quantisation: codes are the corners of the cube [-1, 1] ** bits (Yu et al. 2023,
    section 3.1; the weights are Open-MAGVIT2's).
    """

    @property
    def corner(self) -> float:
        """Of the cube."""
        return 1.0

    def compared(self, x: Float[Tensor, "b bits h w"]) -> Float[Tensor, "b bits h w"]:
        """As they are."""
        return x


@dataclass(frozen=True)
class BSQ(Signs):
    """Binary spherical quantisation: codes are the corners of the cube inside the unit sphere, and
    features are projected onto that (Zhao et al. 2024, section 4; the weights are BSQ-ViT's).
    """

    commitment: float = 0.0
    """Weight of the pull of features to their corners, a mean over the latent's elements; 0: none,
    because a feature on the sphere cannot be far from one."""
    entropy: Entropy = field(default_factory=lambda: Entropy(temperature=1.0))

    @property
    def corner(self) -> float:
        """Of the cube inside the sphere."""
        return 1 / math.sqrt(self.bits)

    def compared(self, x: Float[Tensor, "b bits h w"]) -> Float[Tensor, "b bits h w"]:
        """On the sphere."""
        return functional.normalize(x, dim=1)


class SignQuantizer(Discrete):
    """Replaces features by their nearest corners; float32 throughout. The first channel is an id's
    least significant bit, 1 where it is positive.
    """

    remedy = "raise bottleneck.entropy.codebook, or choose fewer bottleneck.bits"

    def __init__(self, spec: Signs) -> None:
        super().__init__(spec.channels, 2**spec.bits)
        self.spec = spec
        self.exported = spec.bits <= MOST_EXPORTED_BITS
        # A buffer, so that fingerprints tell one cube from another.
        self.register_buffer("corner", torch.tensor(spec.corner))
        self.corner: Tensor
        self.surveyed: Tensor | None = None

    def forward(
        self, h: Float[Tensor, "b bits h w"], generator: Generators | None = None
    ) -> Latent:
        """The nearest corners, straight through; penalties `commitment`, `entropy` and
        `codebook_entropy`, which is negative, where they weigh anything.
        """
        with torch.autocast(h.device.type, enabled=False):
            x = self.spec.compared(self.own(h))
            ids = self.find(x)
            q = self.embed(ids)
            self.observe(ids)
            return Latent(self.out(straight_through(x, q)), ids, penalties=self._penalties(x, q))

    def find(self, x: Float[Tensor, "b bits h w"]) -> Int[Tensor, "b h w"]:
        """The signs, as binary numbers."""
        return ((x > 0).long() << self._places(x)).sum(1)

    def embed(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b bits h w"]:
        """The corners of binary numbers."""
        signs = 2 * (ids[:, None] >> self._places(ids) & 1) - 1
        return signs * self.corner

    def wants_survey(self, micro_batches: int) -> bool:
        """Whether the mean probabilities of a step cannot be had from its one micro-batch."""
        return micro_batches > 1 and self.spec.entropy.codebook != 0

    @torch.no_grad()
    def survey(self, features: Sequence[Float[Tensor, "b bits h w"]], keys: Sequence[int]) -> None:
        """Find them, of equal micro-batches and of all ranks."""
        with torch.autocast(self.shift.device.type, enabled=False):
            logits = (self._logits(self.spec.compared(self.own(h))) for h in features)
            means = [mean_probabilities(*halves(each)) for each in logits]
            self.surveyed = all_mean(torch.stack(means).mean(0))

    def step_end(self) -> Rows:
        """Let frequencies follow the step."""
        self.surveyed = None
        return super().step_end()

    def step_skipped(self) -> None:
        """Forget the step."""
        self.surveyed = None
        super().step_skipped()

    def _logits(self, x: Float[Tensor, "b bits h w"]) -> Float[Tensor, "b bits h w"]:
        # A code's probability is exp(2 x.c / T) over a sum of such: a product over channels of
        # exp(+-2 x_i corner / T) over the sum of both, which is the sigmoid of +-4 x_i corner / T.
        return 4 * self.corner / self.spec.entropy.temperature * x

    def _penalties(
        self, x: Float[Tensor, "b bits h w"], q: Float[Tensor, "b bits h w"]
    ) -> dict[str, Float[Tensor, " b"]]:
        entropy, logits, found = self.spec.entropy, self._logits(x), {}
        if self.spec.commitment:
            found["commitment"] = self.spec.commitment * (x - q).square().mean((1, 2, 3))
        if entropy.sample:
            found["entropy"] = entropy.sample * bit_entropy(logits).sum(1).mean((1, 2))
        if entropy.codebook:
            found["codebook_entropy"] = -entropy.codebook * self._cross_entropy(logits)
        return found

    def _cross_entropy(self, logits: Float[Tensor, "b bits h w"]) -> Float[Tensor, " b"]:
        """-sum_k p_k log p_bar_k in nats, p a sample's mean probabilities and p_bar the step's.

        Its mean over the step is H(p_bar), and so is its gradient: the gradient of H is
        -sum_k (1 + log p_bar_k) dp_bar_k, and sum_k dp_bar_k = 0. So p_bar can be one number per
        code for all micro-batches and ranks, and each of them adds its part.
        """
        low, high = halves(logits)
        mean = self.surveyed
        if mean is None:
            mean = mean_probabilities(low, high)
            # In evaluation, one rank may be alone.
            mean = all_mean(mean) if self.training else mean
        surprise = -mean.clamp_min(LEAST_PROBABILITY).log()
        return ((low @ surprise) * high).sum(1).unflatten(0, (len(logits), -1)).mean(1)

    def _places(self, like: Tensor) -> Int[Tensor, "bits 1 1"]:
        return torch.arange(self.spec.bits, device=like.device)[:, None, None]


def bit_entropy(logits: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Entropy of bits that are 1 with probability sigmoid(logits), in nats."""
    log_p, log_not = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    return -(logits.sigmoid() * log_p + (-logits).sigmoid() * log_not)


def halves(
    logits: Float[Tensor, "b bits h w"],
) -> tuple[Float[Tensor, "n low"], Float[Tensor, "n high"]]:
    """Each site's probabilities of all values of the lower half of the bits, and of the upper half.

    A code's probability is the product of its halves', so that sums over codes or over sites are
    matrix products, and sites x codes are never held.
    """
    points = sites(logits)
    middle = points.shape[1] // 2
    return joint(points[:, :middle]), joint(points[:, middle:])


def joint(logits: Float[Tensor, "n bits"]) -> Float[Tensor, "n values"]:
    """Probabilities of all values of independent bits; the first bit is the least significant."""
    p = logits.new_ones(len(logits), 1)
    for bit in logits.unbind(1):
        both = torch.stack([-bit, bit], dim=1).sigmoid()  # (n, 2)
        p = (both[:, :, None] * p[:, None]).flatten(1)
    return p


@torch.no_grad()
def mean_probabilities(
    low: Float[Tensor, "n low"], high: Float[Tensor, "n high"]
) -> Float[Tensor, "low high"]:
    """The mean over sites of the codes' probabilities, by their halves."""
    return low.T @ high / len(low)
