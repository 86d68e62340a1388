"""What all bottlenecks with codes share."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.tokenizers.bottlenecks.search import assign, look_up
from calotype.training.distributed import all_mean
from calotype.training.noise import Generators
from calotype.training.objective import Rows

USAGE_DECAY = 0.99
"""Of the running frequency of each code, per optimiser step."""
HARDLY = 0.1
"""Of the frequency that all codes would have, were they used alike: a code of less is called dead
while training goes on."""
WELL_USED = 0.5
"""Of a codebook: where less is chosen, a person is told."""


EMBEDDING = "quantize.embedding.weight"
"""A stock VQModel's codes."""


class OfCodes:
    """What specs of bottlenecks with codes have in common."""

    channels: Any
    """Channels of z."""

    @property
    def inputs(self) -> int:
        """Channels that it is given: those of z."""
        return self.channels


class Discrete(Bottleneck):
    """A latent space of codes, one of `codes` in each of `codebooks` at every site.

    Codes live in coordinates of their own; h and z are these, shifted and divided by one number for
    all channels, which keeps the nearest code the nearest. Training leaves both alone; afterwards
    they make latents of mean 0 and standard deviation 1.
    """

    remedy = "its codes were trained elsewhere and stay as they are"
    """What a person can do who sees few codes in use."""

    def __init__(self, channels: int, codes: int, codebooks: int = 1) -> None:
        super().__init__()
        self.z_channels, self.codes, self.codebooks = channels, codes, codebooks
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("usage", torch.full((codebooks, codes), 1 / codes))
        self.register_buffer("counts", torch.zeros(codebooks, codes), persistent=False)
        self.register_buffer("seen_sites", torch.zeros(()), persistent=False)
        self.shift: Tensor
        self.scale: Tensor
        self.usage: Tensor
        self.counts: Tensor
        self.seen_sites: Tensor
        self.metrics = {"codes_alive": torch.ones(())}

    @abstractmethod
    def find(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b ..."]:
        """The codes of features, in the codes' own coordinates."""

    @abstractmethod
    def embed(self, ids: Int[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Codes in their own coordinates."""

    def own(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features in the codes' coordinates, in float32."""
        return h.float() * self.scale + self.shift[:, None, None]

    def out(self, q: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Codes in the decoder's coordinates."""
        return (q - self.shift[:, None, None]) / self.scale

    def mode(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The codes of the features."""
        return self.unpack(self.pack(h))

    def pack(self, h: Float[Tensor, "b c h w"]) -> Int[Tensor, "b ..."]:
        """Keep the ids, as int32."""
        with torch.no_grad():
            return self.find(self.own(h)).int()

    def unpack(
        self, packed: Int[Tensor, "b ..."], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Look the ids up; nothing is drawn."""
        with torch.no_grad():
            # In memory too as a stock VQModel has them, so that its convolutions round alike.
            return self.out(self.embed(packed.long())).contiguous()

    @torch.no_grad()
    def table(self) -> Float[Tensor, "k c"]:
        """All codes in the decoder's coordinates, as a stock VQModel's embedding."""
        ids = torch.arange(self.codes, device=self.shift.device)
        return self.out(self.embed(ids[:, None, None]))[:, :, 0, 0]

    def stock_weights(self, autoencoder: nn.Module) -> dict[str, Tensor]:
        """All codes, as a VQModel's."""
        return {EMBEDDING: self.table()}

    @torch.no_grad()
    def code_vectors(self) -> Float[Tensor, "codebooks k c"]:
        """What each code adds to z, in each codebook about a mean of 0 and with a mean square
        of 1.
        """
        first = torch.zeros(self.codebooks, self.codes, self.codebooks, dtype=torch.long)
        for book in range(self.codebooks):
            first[book, :, book] = torch.arange(self.codes)
        ids = first.flatten(0, 1).to(self.shift.device)[..., None, None]
        added = self.embed(ids if self.codebooks > 1 else ids[:, 0])[:, :, 0, 0]
        added = added.float().view(self.codebooks, self.codes, -1)
        added = added - added.mean(1, keepdim=True)
        return added / added.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-9)

    def latent_state(self) -> dict[str, Tensor]:
        """What decides on latents, beside the autoencoder's weights."""
        state = {name: value for name, value in self.state_dict().items() if name != "usage"}
        return {f"bottleneck.{name}": value for name, value in state.items()}

    @torch.no_grad()
    def normalise(self, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Follow 1x1 convolutions that were changed so that h and z are (h - mean) / std."""
        self.shift += mean.to(self.shift) * self.scale
        self.scale *= std.to(self.scale).square().mean().sqrt()

    @torch.no_grad()
    def observe(self, ids: Int[Tensor, "b ..."]) -> None:
        """Count the codes of a training pass; several codebooks' lie along the second axis."""
        if self.training and self.observing:
            self.tally(ids, self.counts)

    def tally(self, ids: Int[Tensor, "b ..."], counts: Num[Tensor, "codebooks k"]) -> None:
        """Add ids to the counts of their codes."""
        flat = ids.reshape(len(ids), self.codebooks, -1).transpose(0, 1).flatten(1)
        counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=counts.dtype))

    def step_begin(self, step: int) -> None:
        """Log what the codes were used for up to here; subclasses add theirs."""
        # Of what checkpoints hold, so that a resumed run logs the same.
        usage = self.seen_usage(step)
        alive = (usage * self.codes > HARDLY).float().mean()
        self.metrics = {"perplexity": perplexity(usage).mean(), "codes_alive": alive}

    def seen_usage(self, step: int) -> Float[Tensor, "codebooks k"]:
        """The running frequency without its beginning, at which all codes seem used alike."""
        left = USAGE_DECAY**step
        seen = (self.usage - left / self.codes).clamp_min(0)
        return seen / seen.sum(1, keepdim=True) if step else self.usage

    def warning(self) -> str | None:
        """What to tell a person whose codes are dying; None: nothing, or too little was seen."""
        alive = self.metrics["codes_alive"].item()
        seen = self.seen_sites.item() / (1 - USAGE_DECAY)
        if alive >= WELL_USED or seen < 4 * self.codes:
            return None
        return f"{alive:.0%} of {self.codes} codes are alive: {self.remedy}"

    def step_end(self) -> Rows:
        """Let running frequencies follow the step, of all ranks."""
        counts = all_mean(self.counts)
        self.seen_sites = counts[0].sum()
        self.usage.lerp_(counts / counts.sum(1, keepdim=True).clamp_min(1e-9), 1 - USAGE_DECAY)
        self.counts.zero_()
        return []

    def step_skipped(self) -> None:
        """Drop the counts."""
        self.counts.zero_()


def perplexity(frequency: Float[Tensor, "*codebooks k"]) -> Float[Tensor, "*codebooks"]:
    """Effective number of codes: exp of their frequencies' entropy, in nats."""
    p = frequency / frequency.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


class Table(Discrete):
    """The fixed codes of a trained VQModel, whichever way they were trained."""

    def latent_state(self) -> dict[str, Tensor]:
        """The codes, under the VQModel's name for them."""
        return {EMBEDDING: self.table()}

    def __init__(self, codes: Float[Tensor, "k c"]) -> None:
        super().__init__(codes.shape[1], len(codes))
        self.register_buffer("codebook", codes.detach().float(), persistent=False)
        self.codebook: Tensor

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """The nearest codes, straight through."""
        x = self.own(h)
        ids = self.find(x)
        self.observe(ids)
        return Latent(self.out(straight_through(x, self.embed(ids))), ids)

    def find(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
        """The nearest code of each site."""
        return assign(x, self.codebook)

    def embed(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """Look codes up."""
        return look_up(ids, self.codebook)


def vq_model(
    channels: int, features: int | None, codes: int, **settings: Any
) -> "diffusers.VQModel":
    """A stock VQModel with fresh weights, but for its codes: the bottleneck has them."""
    model = diffusers.VQModel(
        latent_channels=features or channels, num_vq_embeddings=codes, vq_embed_dim=channels,
        scaling_factor=1.0, **settings,
    )  # fmt: skip
    model.quantize = None  # type: ignore[assignment]
    return model


def straight_through(
    x: Float[Tensor, "b c h w"], q: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """q, whose gradient goes to x as it comes (Bengio et al. 2013)."""
    return x + (q - x).detach()
