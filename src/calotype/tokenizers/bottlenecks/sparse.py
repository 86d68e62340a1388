"""Sparse latents: many units, of which a picture makes few respond."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.tokenizers.bottlenecks.discrete import vq_model
from calotype.tokenizers.bottlenecks.sparsity import L1Activity, Sparsity
from calotype.training.distributed import all_gather, all_mean
from calotype.training.noise import Generators
from calotype.training.objective import Rows

MEAN_DECAY = 0.9
"""Of the running means, per optimiser step. What lags far behind makes units swing about a rate."""
PATIENCE = 1000
"""Pictures in a row that a unit may respond to none of before it is called dead."""
TOO_MANY = 0.1
"""Of the units: where more are dead, a person is told."""


@dataclass(frozen=True)
class Sparse:
    """A latent of many units of which few respond to any one picture (Olshausen & Field 1996): more
    of them than there are pixels, and still nothing is copied. What keeps them few also says what a
    unit's response is.
    """

    channels: int = 256
    """Units of each site; of a latent that is a vector, all of them."""
    sparsity: Sparsity = field(default_factory=L1Activity)
    """What keeps them few."""

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"bottleneck.channels is {self.channels}: it must be at least 1")
        self.sparsity.check(self.channels)

    @property
    def inputs(self) -> int:
        """Channels that it is given: one for each unit."""
        return self.channels

    def build(self) -> "SparseBottleneck":
        """Make the bottleneck."""
        return SparseBottleneck(self)

    def autoencoder(self, **settings: Any) -> "diffusers.VQModel":
        """A VQModel around it, without codes: it would not know the units' response."""
        return vq_model(self.channels, None, 1, **settings)


class SparseBottleneck(Bottleneck):
    """Lets units respond, and remembers which of them do; float32 throughout."""

    exported = False
    may_scale = False

    def __init__(self, spec: Sparse) -> None:
        super().__init__()
        self.spec = spec
        self.z_channels = units = spec.channels
        self.register_buffer("mean", torch.full((units,), spec.sparsity.first_mean))
        self.register_buffer("silent", torch.zeros(units))
        for name in ("sums", "responses"):
            self.register_buffer(name, torch.zeros(units), persistent=False)
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.mean: Tensor
        """Running mean of each unit's activity."""
        self.silent: Tensor
        """Pictures since each unit's last response."""
        self.sums: Tensor
        """Of the step: each unit's activity, a mean over sites."""
        self.responses: Tensor
        """Of the step: pictures that each unit responded to."""
        self.seen: Tensor
        """Of the step: pictures."""
        self.step_begin(0)

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """The units' responses; nothing is drawn."""
        z = self.mode(h)
        with torch.no_grad():
            responding = self.spec.sparsity.responding(z)
            self.metrics["active_units"] = responding.sum(1).float().mean()
            if self.training and self.observing:
                self.sums += z.mean((2, 3)).sum(0)
                self.responses += responding.any(-1).any(-1).sum(0)
                self.seen += len(z)
        return Latent(z, penalties=self.spec.sparsity.penalties(z, self.mean))

    def mode(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same."""
        return self.spec.sparsity.activity(h.float())

    def pack(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same."""
        return self.mode(h)

    def unpack(
        self, packed: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """As it is."""
        return packed.float()

    def latent_state(self) -> dict[str, Tensor]:
        """What decides on latents beside the autoencoder's weights: nothing that is learnt."""
        return {}

    @property
    def dead(self) -> Bool[Tensor, " c"]:
        """Which units have been silent for too long."""
        return self.silent >= PATIENCE

    def step_begin(self, step: int) -> None:
        """Log how many units are dead up to here."""
        self.metrics["dead_units"] = self.dead.float().mean()

    @torch.no_grad()
    def step_end(self) -> Rows:
        """Let what is remembered follow the step, of all ranks."""
        seen = all_gather(self.seen)
        self.mean.lerp_(all_mean(self.sums) / seen.mean().clamp_min(1), 1 - MEAN_DECAY)
        heard = all_mean(self.responses) > 0
        self.silent.copy_(torch.where(heard, 0, self.silent + seen.sum()))
        self.step_skipped()
        return []

    def step_skipped(self) -> None:
        """Forget what was added up."""
        for each in (self.sums, self.responses, self.seen):
            each.zero_()

    def warning(self) -> str | None:
        """What to tell a person whose units have died."""
        share = self.metrics["dead_units"].item()
        if share <= TOO_MANY:
            return None
        return (
            f"{share:.0%} of {self.z_channels} units are dead, and responded to none of the last "
            f"{PATIENCE} pictures: {self.spec.sparsity.remedy}"
        )
