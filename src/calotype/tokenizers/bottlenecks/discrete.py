"""What all bottlenecks with codes share."""

from abc import abstractmethod
from typing import Any

import torch
from diffusers import VQModel
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.tokenizers.bottlenecks.codebook import sites
from calotype.tokenizers.bottlenecks.search import nearest
from calotype.training.distributed import all_mean
from calotype.training.noise import Generators
from calotype.training.objective import Rows

USAGE_DECAY = 0.99
"""Of the running frequency of each code, per optimiser step."""
HARDLY = 0.1
"""Of the frequency that all codes would have, were they used alike: less is logged as no use."""


class Discrete(Bottleneck):
    """A latent space of codes, one of `codes` in each of `books` at every site.

    Codes live in coordinates of their own; h and z are these, shifted and divided by one number for
    all channels, which keeps the nearest code the nearest. Training leaves both alone; afterwards
    they make latents of mean 0 and standard deviation 1.
    """

    exported = True
    """Whether a stock VQModel with all codes as its embedding finds the same ids."""
    remedy = "its codes were trained elsewhere and stay as they are"
    """What a person can do who sees few codes in use."""

    def __init__(self, channels: int, codes: int, books: int = 1) -> None:
        super().__init__()
        self.z_channels, self.codes, self.books = channels, codes, books
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("usage", torch.full((books, codes), 1 / codes))
        self.register_buffer("counts", torch.zeros(books, codes), persistent=False)
        self.shift: Tensor
        self.scale: Tensor
        self.usage: Tensor
        self.counts: Tensor

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
        """Count the codes of a training pass; of several books, they lie along the second axis."""
        if self.training and self.observing:
            flat = ids.reshape(len(ids), self.books, -1).transpose(0, 1).flatten(1)
            self.counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=self.counts.dtype))

    def step_begin(self, step: int) -> None:
        """Log what the codes were used for up to here; subclasses add theirs."""
        # Of what checkpoints hold, so that a resumed run logs the same.
        used = (self.usage * self.codes > HARDLY).float().mean()
        self.metrics = {"perplexity": perplexity(self.usage).mean(), "codes_used": used}

    def step_end(self) -> Rows:
        """Let running frequencies follow the step, of all ranks."""
        counts = all_mean(self.counts)
        self.usage.lerp_(counts / counts.sum(1, keepdim=True).clamp_min(1e-9), 1 - USAGE_DECAY)
        self.counts.zero_()
        return []

    def step_skipped(self) -> None:
        """Drop the counts."""
        self.counts.zero_()


def perplexity(frequency: Float[Tensor, "*books k"]) -> Float[Tensor, "*books"]:
    """Effective number of codes: exp of their frequencies' entropy, in nats."""
    p = frequency / frequency.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


class Table(Discrete):
    """The fixed codes of a trained VQModel, whichever way they were trained."""

    def latent_state(self) -> dict[str, Tensor]:
        """Nothing: the VQModel has the codes."""
        return {}

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
        return nearest(sites(x), self.codebook).reshape(len(x), *x.shape[2:])

    def embed(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """Look codes up."""
        return functional.embedding(ids, self.codebook).movedim(-1, 1)


def vq_model(channels: int, features: int | None, codes: int, **settings: Any) -> VQModel:
    """A stock VQModel with fresh weights, but for its codes: the bottleneck has them."""
    model = VQModel(
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
