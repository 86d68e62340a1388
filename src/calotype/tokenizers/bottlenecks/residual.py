"""Residual vector quantisation (Zeghidour et al. 2021, section III-C; Lee et al. 2022)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Latent, check_weight
from calotype.tokenizers.bottlenecks.codebook import (
    Codebook,
    Codes,
    Cosine,
    priorities,
)
from calotype.tokenizers.bottlenecks.discrete import Discrete, OfCodes, straight_through, vq_model
from calotype.tokenizers.bottlenecks.search import sites
from calotype.training.noise import Generators, generators
from calotype.training.objective import Rows


@dataclass(frozen=True)
class RVQ(OfCodes):
    """Several codes at each site, whose sum is z: each quantises what those before it left."""

    codebooks: int = 4
    """Codes at each site, each of a codebook of its own."""
    codebook: Codebook = field(default_factory=Codebook)
    """What each stage has one of."""
    commitment: float = 0.25
    """Weight of the pull of what a stage quantises to its code, a mean over the latent's elements
    and over stages."""
    features: int | None = None
    """Channels between encoder and `quant_conv`, and behind `post_quant_conv`; None: a code's."""

    def __post_init__(self) -> None:
        check_weight("bottleneck.commitment", self.commitment)
        if self.codebooks < 1:
            raise ValueError(f"bottleneck.codebooks is {self.codebooks}: choose 1 or more")
        if isinstance(self.codebook.similarity, Cosine):
            raise ValueError(
                "codebook.similarity is Cosine: what is left of a feature is no longer on the "
                "sphere, choose Euclidean"
            )

    @property
    def channels(self) -> int:
        """Channels of z."""
        return self.codebook.channels

    def build(self) -> "ResidualQuantizer":
        """Make the bottleneck."""
        return ResidualQuantizer(self)

    def autoencoder(self, **settings) -> "diffusers.VQModel":
        """A VQModel around it, without its codes: it would not find the same."""
        return vq_model(self.channels, self.features, 1, **settings)


class Pass(NamedTuple):
    """One stage's part of a pass."""

    codes: Codes
    left: Float[Tensor, "b c h w"]
    """What earlier stages left."""
    ids: Int[Tensor, "b h w"]
    q: Float[Tensor, "b c h w"]
    """The codes, with gradient to them."""


class ResidualQuantizer(Discrete):
    """Replaces features by sums of codes, one of each stage; float32 throughout."""

    exported = False

    def __init__(self, spec: RVQ) -> None:
        super().__init__(spec.channels, spec.codebook.size, spec.codebooks)
        self.spec, self.remedy = spec, spec.codebook.remedy
        stages = nn.ModuleList(spec.codebook.build() for _ in range(spec.codebooks))
        self.stages = cast("Sequence[Codes]", stages)

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """The nearest codes, straight through their sum; penalties `commitment` and, if a loss
        moves the codes, `codebook`, both means over stages.
        """
        with torch.autocast(h.device.type, enabled=False):
            x = self.own(h)
            passes = list(self._passes(x))
            ids = torch.stack([each.ids for each in passes], dim=1)
            q = torch.stack([each.q.detach() for each in passes]).sum(0)
            if self.training and self.observing:
                self.observe(ids)
                for each in passes:
                    each.codes.observe(each.left, each.ids, generator)
            return Latent(self.out(straight_through(x, q)), ids, penalties=self._penalties(passes))

    def find(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b codebooks h w"]:
        """The nearest code to what is left, stage by stage."""
        return torch.stack([each.ids for each in self._passes(x)], dim=1)

    def embed(self, ids: Int[Tensor, "b codebooks h w"]) -> Float[Tensor, "b c h w"]:
        """Sums of codes."""
        parts = zip(self.stages, ids.unbind(1), strict=True)
        return torch.stack([codes.embed(own) for codes, own in parts]).sum(0)

    def wants_survey(self, micro_batches: int) -> bool:
        """Whether codes are to begin among the features of the first step."""
        return any(codes.wants_start() for codes in self.stages)

    @torch.no_grad()
    def survey(self, features: Sequence[Float[Tensor, "b c h w"]], keys: Sequence[int]) -> None:
        """Begin there, each stage among what those before it leave."""
        x = self.own(torch.cat(list(features)))
        priority = priorities(x, generators(keys))
        for codes in self.stages:
            codes.start(sites(x), priority)
            x = x - codes.embed(codes.find(x))

    def step_begin(self, step: int) -> None:
        """Collect features if the step ends with restarts."""
        super().step_begin(step)
        for codes in self.stages:
            codes.step_begin(step)

    def step_end(self) -> Rows:
        """Let frequencies and codes follow the step."""
        super().step_end()
        rows = []
        for codes, usage in zip(self.stages, self.usage, strict=True):
            anew = codes.step_end(usage)
            if isinstance(codes.embedding, nn.Parameter) and anew is not None:
                rows.append((codes.embedding, anew))
        return rows

    def step_skipped(self) -> None:
        """Forget the step."""
        super().step_skipped()
        for codes in self.stages:
            codes.step_skipped()

    def _passes(self, x: Float[Tensor, "b c h w"]) -> Iterator[Pass]:
        for codes in self.stages:
            ids = codes.find(x)
            q = codes.embed(ids)
            yield Pass(codes, x, ids, q)
            x = x - q.detach()

    def _penalties(self, passes: Sequence[Pass]) -> dict[str, Float[Tensor, " b"]]:
        distances = [(each.left - each.q.detach()).square().mean((1, 2, 3)) for each in passes]
        found = {"commitment": self.spec.commitment * torch.stack(distances).mean(0)}
        pulls = [each.codes.penalty(each.left, each.q) for each in passes]
        if moved := [pull for pull in pulls if pull is not None]:
            found["codebook"] = torch.stack(moved).mean(0)
        return found
