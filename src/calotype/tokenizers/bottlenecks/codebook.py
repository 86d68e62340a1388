"""Learnt codes: how they begin, how they follow the features, and how dead ones live again."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.tokenizers.bottlenecks.base import check_weight
from calotype.tokenizers.bottlenecks.discrete import USAGE_DECAY
from calotype.tokenizers.bottlenecks.search import assign, k_means, look_up, nearest, sites
from calotype.training.distributed import all_gather, all_mean
from calotype.training.noise import Generators, sent

MOST_RESTARTS = 4096
"""Codes that may be set anew at once."""
Anew = Bool[Tensor, " k"] | None
"""Which codes were set anew; None: none."""


@dataclass(frozen=True)
class CodebookLoss:
    """A loss pulls codes towards the features that chose them (van den Oord et al. 2017, eq. 3)."""

    weight: float = 1.0
    """Of the squared distance, a mean over the latent's elements."""

    def __post_init__(self) -> None:
        check_weight("codebook.learning.weight", self.weight)


@dataclass(frozen=True)
class EMA:
    """Codes are moving averages of the features that chose them (van den Oord et al. 2017,
    appendix A.1). The averages' ratio is the code, so that a code nobody chose stays where it is,
    and one that was chosen seldom weighs what it saw alike, however long it is training.
    """

    decay: float = 0.99
    """Per optimiser step. These averages are exported, beside the encoder's by `run.ema`: choose
    one decay for both where the learning rate does not fall to the end."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"codebook.learning.decay is {self.decay}: it lies in [0, 1)")


@dataclass(frozen=True)
class Uniform:
    """Codes begin evenly within 1 / size of zero (the published VQ-VAEs and VQGANs)."""

    def first(self, size: int, channels: int) -> Float[Tensor, "k c"]:
        """Draw them."""
        return torch.empty(size, channels).uniform_(-1 / size, 1 / size)


@dataclass(frozen=True)
class Normal:
    """Codes begin normally distributed."""

    std: float = 1.0
    """Standard deviation of each channel."""

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"codebook.init.std is {self.std}: it must be positive")

    def first(self, size: int, channels: int) -> Float[Tensor, "k c"]:
        """Draw them."""
        return self.std * torch.randn(size, channels)


@dataclass(frozen=True)
class KMeans:
    """Codes begin as the centres of the first step's features, of all ranks."""

    iterations: int = 10
    """Of Lloyd's algorithm."""
    sites_per_code: int = 16
    """Features that are looked at, at most, for each code."""

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("sites_per_code", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"codebook.init.{name} is {value}: choose {least} or more")

    def first(self, size: int, channels: int) -> Float[Tensor, "k c"]:
        """They are not known yet."""
        return torch.zeros(size, channels)


@dataclass(frozen=True)
class Restart:
    """A code that is hardly chosen is set to a feature of the batch (Dhariwal et al. 2020, section
    3.1), and all that is remembered of it begins anew: averages, moments, frequency.
    """

    below: float = 0.1
    """Of the frequency that all codes would have, were they used alike: what is less is dead. A
    code set anew begins there, so it has until the next restarts to be chosen."""
    every: int = 10
    """Optimiser steps between restarts."""

    def __post_init__(self) -> None:
        if not 0 < self.below < 1 or self.every < 1:
            raise ValueError(
                f"codebook.restart: below is {self.below} and lies in (0, 1), every is "
                f"{self.every} and is at least 1"
            )


@dataclass(frozen=True)
class Euclidean:
    """Features and codes are compared as they are."""


@dataclass(frozen=True)
class Cosine:
    """Features and codes are compared, and decoded, on the unit sphere (Yu et al. 2022, section
    3.2).
    """


@dataclass(frozen=True)
class Codebook:
    """A learnt codebook."""

    size: int = 8192
    """Codes."""
    channels: int = 4
    """Channels of a code; few keep all codes in use (Yu et al. 2022, section 3.2)."""
    learning: CodebookLoss | EMA = field(default_factory=CodebookLoss)
    """How codes follow the features that chose them."""
    init: Uniform | Normal | KMeans = field(default_factory=KMeans)
    """How they begin."""
    restart: Restart | None = field(default_factory=Restart)
    """How codes that nobody chooses are used again; None: they stay dead."""
    similarity: Euclidean | Cosine = field(default_factory=Euclidean)
    """What makes a code the nearest."""

    def __post_init__(self) -> None:
        for name, least in (("size", 2), ("channels", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"codebook.{name} is {value}: choose {least} or more")

    @property
    def remedy(self) -> str:
        """What keeps more of its codes in use."""
        if self.restart is None:
            return "choose codebook.restart:restart"
        if not isinstance(self.init, KMeans):
            return "choose codebook.init:k-means"
        return "choose a smaller codebook.size, fewer codebook.channels or a higher restart.below"

    def build(self) -> "Codes":
        """Make it."""
        return EMACodes(self) if isinstance(self.learning, EMA) else Codes(self)


class Codes(nn.Module):
    """Codes that an optimiser moves."""

    def __init__(self, spec: Codebook) -> None:
        super().__init__()
        self.spec = spec
        # On the sphere from the first: of a tiny code each step turns the direction far.
        self._hold(self.compared(spec.init.first(spec.size, spec.channels)))
        # A tensor, because a resumed run must not begin again; read once, because that waits for
        # the device.
        self.register_buffer("started", torch.tensor(not isinstance(spec.init, KMeans)))
        self.started: Tensor
        self.begun = self.fresh = self.collecting = False
        self.unseen = 1.0
        self.collected: list[Tensor] = []

    def _hold(self, first: Float[Tensor, "k c"]) -> None:
        self.embedding: Tensor = nn.Parameter(first)

    @property
    def codes(self) -> Float[Tensor, "k c"]:
        """The codes, on the unit sphere if that is where they are compared."""
        return self.compared(self.embedding)

    def compared(self, x: Float[Tensor, "n c *place"]) -> Float[Tensor, "n c *place"]:
        """Features, in their second axis, as codes are compared with them."""
        return functional.normalize(x, dim=1) if isinstance(self.spec.similarity, Cosine) else x

    def find(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
        """The nearest code of each site."""
        return assign(self.compared(x), self.codes)

    def embed(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """Look codes up, with gradient to them."""
        return look_up(ids, self.codes)

    def penalty(
        self, x: Float[Tensor, "b c h w"], q: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"] | None:
        """What moves the codes, weighted; None: no loss does."""
        assert isinstance(self.spec.learning, CodebookLoss)
        return self.spec.learning.weight * (x.detach() - q).square().mean((1, 2, 3))

    def wants_start(self) -> bool:
        """Whether the codes have still to be found among features."""
        self.begun = self.begun or bool(self.started)
        return not self.begun

    @torch.no_grad()
    def start(self, points: Float[Tensor, "n c"], priority: Float[Tensor, " n"]) -> None:
        """Begin at the centres of all ranks' features."""
        assert isinstance(self.spec.init, KMeans)
        chosen = _first(points, priority, self.spec.init.sites_per_code * self.spec.size)
        spherical = isinstance(self.spec.similarity, Cosine)
        centres = k_means(chosen, self.spec.size, self.spec.init.iterations, spherical)
        # Sums over ranks are the same bits on each; a device's own may differ in their order.
        every = torch.ones(self.spec.size, dtype=torch.bool, device=points.device)
        self.place(every, self.compared(all_mean(centres)))
        ids = nearest(chosen, centres)
        counts = chosen.new_zeros(self.spec.size).index_add_(0, ids, torch.ones_like(chosen[:, 0]))
        self.weigh(every, all_mean(counts / len(chosen)))
        self.started.fill_(True)
        self.begun = self.fresh = True

    def step_begin(self, step: int) -> None:
        """Collect features if this step ends with restarts."""
        restart = self.spec.restart
        self.collecting = restart is not None and (step + 1) % restart.every == 0
        self.unseen = USAGE_DECAY ** (step + 1)

    @torch.no_grad()
    def observe(
        self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b h w"], generator: Generators | None
    ) -> None:
        """Note what a training pass assigned."""
        if self.collecting:
            priority = priorities(x, generator)
            self.collected.append(_with(sites(x), priority))

    @torch.no_grad()
    def step_end(self, usage: Float[Tensor, " k"]) -> Anew:
        """Follow the step; `usage`, the codes' running frequencies, is told of restarts. Returns
        which codes were set anew; None: none can have been.
        """
        anew = self._restart(usage)
        if self.fresh:
            self.fresh = False
            return torch.ones_like(usage, dtype=torch.bool)
        return anew

    def step_skipped(self) -> None:
        """Forget what was collected."""
        self.collected = []

    def place(self, which: Bool[Tensor, " k"], points: Float[Tensor, "k c"]) -> None:
        """Set codes anew. Which these are nobody reads: that would wait for the device."""
        now = self.embedding.data
        now.copy_(torch.where(which[:, None], points.to(now), now))

    def weigh(self, which: Bool[Tensor, " k"], share: Float[Tensor, " k"]) -> None:
        """Say for which part of a step's sites codes stand that were set anew."""

    def _restart(self, usage: Float[Tensor, " k"]) -> Anew:
        restart = self.spec.restart
        if not self.collected or restart is None:
            return None
        gathered = torch.cat(self.collected)
        self.collected = []
        points = _first(gathered[:, 1:], gathered[:, 0], min(self.spec.size, MOST_RESTARTS))
        least = usage.topk(min(len(points), len(usage)), largest=False).indices
        # Without its beginning, at which all seem alike, as far as it still counts.
        seen = (usage[least] - self.unseen / self.spec.size) / (1 - self.unseen)
        dead = seen < restart.below / self.spec.size
        which = torch.zeros_like(usage, dtype=torch.bool).scatter(0, least, dead)
        self.place(which, gathered.new_zeros(self.embedding.shape).index_copy(0, least, points))
        self.weigh(which, torch.full_like(usage, 1 / self.spec.size))
        again = (self.unseen + (1 - self.unseen) * restart.below) / self.spec.size
        usage.masked_fill_(which, again)
        return which


class EMACodes(Codes):
    """Codes that are moving averages of what chose them.

    Averages begin at nothing, and what is set anew weighs no more than one step: early features,
    of an encoder that has changed since, then do not linger.
    """

    def _hold(self, first: Float[Tensor, "k c"]) -> None:
        size = len(first)
        self.register_buffer("embedding", first)
        self.register_buffer("frequency", torch.zeros(size))
        self.register_buffer("total", torch.zeros_like(first))
        self.register_buffer("sums", torch.zeros_like(first), persistent=False)
        self.register_buffer("counts", torch.zeros(size), persistent=False)
        self.frequency: Tensor
        self.total: Tensor
        self.sums: Tensor
        self.counts: Tensor

    def penalty(
        self, x: Float[Tensor, "b c h w"], q: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"] | None:
        """No loss moves them."""
        return None

    @torch.no_grad()
    def observe(
        self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b h w"], generator: Generators | None
    ) -> None:
        """Add up what chose each code."""
        super().observe(x, ids, generator)
        self.sums.index_add_(0, ids.flatten(), sites(x))
        self.counts.index_add_(0, ids.flatten(), torch.ones_like(x[:, 0].flatten()))

    @torch.no_grad()
    def step_end(self, usage: Float[Tensor, " k"]) -> Anew:
        """Follow the step; averaged codes are no parameters, so none is told of as set anew."""
        assert isinstance(self.spec.learning, EMA)
        sums, counts = all_mean(self.sums), all_mean(self.counts)
        follow, sites_in_step = 1 - self.spec.learning.decay, counts.sum()
        self.frequency.lerp_(counts / sites_in_step, follow)
        self.total.lerp_(sums / sites_in_step, follow)
        seen = self.frequency > 1e-30
        means = self.total / self.frequency.clamp_min(1e-30)[:, None]
        self.embedding.copy_(self.compared(torch.where(seen[:, None], means, self.embedding)))
        self.sums.zero_()
        self.counts.zero_()
        super().step_end(usage)
        return None

    def step_skipped(self) -> None:
        """Forget what was added up."""
        super().step_skipped()
        self.sums.zero_()
        self.counts.zero_()

    def weigh(self, which: Bool[Tensor, " k"], share: Float[Tensor, " k"]) -> None:
        """Let their averages begin where they are, as after one step of that share."""
        assert isinstance(self.spec.learning, EMA)
        weight = (1 - self.spec.learning.decay) * share
        self.frequency.copy_(torch.where(which, weight, self.frequency))
        begun = weight[:, None] * self.embedding
        self.total.copy_(torch.where(which[:, None], begun, self.total))


def priorities(x: Float[Tensor, "b c h w"], generator: Generators | None) -> Float[Tensor, " n"]:
    """A random number for each site, drawn for each sample by itself: the features of the largest
    are the same choice whatever ranks and micro-batches share them.
    """
    each = math.prod(x.shape[2:])
    if generator is None:
        return torch.rand(len(x) * each).to(x.device)
    return sent(torch.cat([torch.rand(each, generator=g) for g in generator]), x.device)


def _with(points: Float[Tensor, "n c"], priority: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    return torch.cat([priority[:, None], points], dim=1)


def _first(
    points: Float[Tensor, "n c"], priority: Float[Tensor, " n"], count: int
) -> Float[Tensor, "m c"]:
    """Of all ranks' points those of the highest priority, highest first."""
    mine = _with(points, priority)
    mine = mine[priority.topk(min(count, len(mine))).indices]
    every = all_gather(mine)
    return every[every[:, 0].topk(min(count, len(every))).indices][:, 1:]
