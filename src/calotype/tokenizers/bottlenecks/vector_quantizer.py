"""Vector quantisation with a learnt codebook (van den Oord et al. 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks.base import Latent, check_weight
from calotype.tokenizers.bottlenecks.codebook import Codebook, priorities
from calotype.tokenizers.bottlenecks.discrete import Discrete, OfCodes, straight_through, vq_model
from calotype.tokenizers.bottlenecks.search import sites
from calotype.training.noise import Generators, generators
from calotype.training.objective import Rows


@dataclass(frozen=True)
class StraightThrough:
    """The gradient of a code goes to its feature as it comes (Bengio et al. 2013)."""

    def through(
        self, x: Float[Tensor, "b c h w"], q: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """q, with the gradient's way to x."""
        return straight_through(x, q)


@dataclass(frozen=True)
class Rotation:
    """The gradient goes back through the rotation and the scaling that turn a feature into its code
    (Fifty et al. 2024, section 4.2).
    """

    def through(
        self, x: Float[Tensor, "b c h w"], q: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """q, with the gradient's way to x."""
        length, target = (v.norm(dim=1, keepdim=True).clamp_min(1e-6) for v in (x.detach(), q))
        a, b = x.detach() / length, q / target
        r = nn.functional.normalize(a + b, dim=1)
        along = x - 2 * (x * r).sum(1, keepdim=True) * r + 2 * (x * a).sum(1, keepdim=True) * b
        return target / length * along


@dataclass(frozen=True)
class VQ(OfCodes):
    """One code of a learnt codebook at each site."""

    codebook: Codebook = field(default_factory=Codebook)
    """What is chosen from."""
    commitment: float = 0.25
    """Weight of the pull of features to their codes, a mean over the latent's elements: the beta of
    van den Oord et al. 2017, eq. 3, on the term they put it on."""
    estimator: StraightThrough | Rotation = field(default_factory=StraightThrough)
    """How the decoder's gradient passes from a code to the feature that chose it."""
    features: int | None = None
    """Channels between encoder and `quant_conv`, and behind `post_quant_conv`; None: a code's."""

    def __post_init__(self) -> None:
        check_weight("bottleneck.commitment", self.commitment)

    @property
    def channels(self) -> int:
        """Channels of z."""
        return self.codebook.channels

    def build(self) -> "VectorQuantizer":
        """Make the bottleneck."""
        return VectorQuantizer(self)

    def autoencoder(self, **settings) -> "diffusers.VQModel":
        """A stock VQModel around it."""
        return vq_model(self.channels, self.features, self.codebook.size, **settings)


class VectorQuantizer(Discrete):
    """Replaces features by their nearest codes; float32 throughout."""

    def __init__(self, spec: VQ) -> None:
        super().__init__(spec.channels, spec.codebook.size)
        self.spec, self.codebook = spec, spec.codebook.build()
        self.remedy = spec.codebook.remedy

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """The nearest codes; penalties `commitment` and, if a loss moves the codes, `codebook`."""
        with torch.autocast(h.device.type, enabled=False):
            x = self.codebook.compared(self.own(h))
            ids = self.codebook.find(x)
            q = self.codebook.embed(ids)
            if self.training and self.observing:
                self.observe(ids)
                self.codebook.observe(x, ids, generator)
            z = self.spec.estimator.through(x, q.detach())
            distance = (x - q.detach()).square().mean((1, 2, 3))
            penalties = {"commitment": self.spec.commitment * distance}
            if (pull := self.codebook.penalty(x, q)) is not None:
                penalties["codebook"] = pull
            return Latent(self.out(z), ids, penalties=penalties)

    def find(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
        """The nearest codes."""
        return self.codebook.find(x)

    def embed(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """Look codes up."""
        return self.codebook.embed(ids)

    def wants_survey(self, micro_batches: int) -> bool:
        """Whether codes are to begin among the features of the first step."""
        return self.codebook.wants_start()

    @torch.no_grad()
    def survey(self, features: Sequence[Float[Tensor, "b c h w"]], keys: Sequence[int]) -> None:
        """Begin there."""
        x = self.codebook.compared(self.own(torch.cat(list(features))))
        self.codebook.start(sites(x), priorities(x, generators(keys)))

    def step_begin(self, step: int) -> None:
        """Collect features if the step ends with restarts."""
        super().step_begin(step)
        self.codebook.step_begin(step)

    def step_end(self) -> Rows:
        """Let frequencies and codes follow the step."""
        super().step_end()
        anew = self.codebook.step_end(self.usage[0])
        embedding = self.codebook.embedding
        if anew is None or not isinstance(embedding, nn.Parameter):
            return []
        return [(embedding, anew)]

    def step_skipped(self) -> None:
        """Forget the step."""
        super().step_skipped()
        self.codebook.step_skipped()
