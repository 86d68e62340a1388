"""The learner that rebuilds images; `calotype.tokenizers.critic` has its opponent."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from calotype.tokenizers.bottlenecks import Latent
from calotype.tokenizers.corruptions import Corrupted, Corruption
from calotype.tokenizers.encoder_terms import EncoderTerm, Seen
from calotype.tokenizers.gradients import Images, WithGradient, captured_input
from calotype.tokenizers.terms import (
    Adaptive,
    Adversary,
    Fixed,
    Likelihood,
    PatchDiscriminator,
    PerceptualTerm,
    Term,
)
from calotype.tokenizers.terms.base import Counted, counting
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.devices import computing
from calotype.training.distributed import all_mean
from calotype.training.noise import Generators, generators
from calotype.training.objective import Rows
from calotype.training.precision import gradient
from calotype.training.sheet import framed

Examples = Sequence[Float[Tensor, "_ _ _ _"]]
"""Images of several shapes, of each a batch."""
Weighted = Mapping[str, tuple[float, Term]]
ADVERSARIAL = "adversarial"


class Reconstruction(Objective):
    """Rebuild the image; pay for every term and for the bottleneck's own.

    Each term of the image is differentiated once, at the image; the gradients' weighted sum then
    goes through the decoder once. So a term's parameters (a discriminator's) never receive any of
    it, one term's graph is freed before the next is built, and the adaptive weight of the
    adversary costs two small products instead of two passes through the decoder's end.

    With a corruption the encoder sees what that makes of an image, and what the decoder makes is
    compared with the clean one, where it counts.
    """

    measured_by_all = True

    def __init__(
        self, tokenizer: ImageTokenizer, terms: Weighted, optimizer: AdamW,
        examples: Examples = (), corruption: Corruption | None = None,
        encoder_terms: Mapping[str, EncoderTerm] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        super().__init__(optimizer)
        self.encoder_terms = encoder_terms
        self.tokenizer, self.corruption = tokenizer, corruption
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        self.examples = examples
        self.opponent: tuple[Adversary, PatchDiscriminator] | None = None
        self.fake = torch.empty(0)
        self.adaptive_weight: Tensor | None = None

    @property
    def compares(self) -> bool:
        """Whether the bottleneck does, or a term of the encoder."""
        bottleneck = self.tokenizer.bottleneck
        return bottleneck.compares or any(term.compares for term in self.encoder_terms.values())

    @property
    def kept_whole(self) -> Sequence[nn.Module]:
        """The bottleneck: codes are set anew between steps."""
        return (self.tokenizer.bottleneck,)

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Encoder, decoder, and what LPIPS looks with."""
        judges = [t.network.net for t in self.terms.values() if isinstance(t, PerceptualTerm)]
        return [*self.tokenizer.networks, *judges]

    def forward(self, batch: Batch, step: int) -> Losses:
        """Score images: `batch["image"]` is float32 [b, c, H, W] in [-1, 1]."""
        real = batch["image"]
        self.tokenizer.bottleneck.step_begin(self.tokenizer.bottleneck.taken + step)
        latent, maps, last, seen, chance = self._rebuild(batch)
        counted, emitted = seen.counted, maps.detach().float()
        picture = emitted[:, : self.tokenizer.channels]
        self.fake = counting(picture, real, counted)
        values, gradients, tuned = self._image_terms(emitted, real, step, counted)
        if ADVERSARIAL in values:
            weight = self._adversarial_weight(last, gradients)
            self.metrics["adversarial_weight"] = weight
            values[ADVERSARIAL] *= weight
            gradients[ADVERSARIAL] *= weight
        losses = {n: WithGradient.apply(maps, values[n], gradients[n]) for n in values}
        losses |= {name: losses[name] + own - own.detach() for name, own in tuned.items()}
        self.metrics["psnr"] = psnr(picture, real).mean()
        if self.tokenizer.mode == "RGBA":
            self.metrics["psnr_alpha"] = psnr(picture[:, 3:], real[:, 3:]).mean()
        rates = {name: term.mean() / real[0].numel() for name, term in latent.rates.items()}
        penalties = {name: term.mean() for name, term in latent.penalties.items()}
        self.metrics |= self.tokenizer.bottleneck.metrics | self._bits(values, latent, seen)
        looked_at = Seen(real, seen.images, chance, self.scaler)
        own = {name: term(self.tokenizer, looked_at).mean()
               for name, term in self.encoder_terms.items()}  # fmt: skip
        return losses | rates | penalties | own

    def _bits(self, values: Mapping[str, Tensor], latent: Latent, seen: Corrupted) -> Losses:
        """A bound on the bits a dimension that a picture takes, where all of it is a likelihood and
        a divergence: of a part of its pixels there is none.
        """
        if latent.divergence is None or seen.counted is not None:
            return {}
        for name, term in self.terms.items():
            if isinstance(term, Likelihood):
                nats = values[name] / self.weights[name]
                rate = latent.divergence.detach().mean() / seen.images[0].numel()
                return {"bits": term.bits(nats + rate)}
        return {}

    def wants_survey(self, micro_batches: int, step: int) -> bool:
        """Whether the bottleneck does, or an adaptive weight is to be that of several."""
        bottleneck = self.tokenizer.bottleneck
        return bottleneck.wants_survey(micro_batches) or self._weighs_ahead(micro_batches, step)

    def _weighs_ahead(self, micro_batches: int, step: int) -> bool:
        opposed = micro_batches > 1 and self._is_opposed(step)
        return opposed and isinstance(self._balance, Adaptive)

    @torch.no_grad()
    def survey(self, batches: Sequence[Batch], step: int) -> None:
        """Let the bottleneck look at the whole step, if it wants to; find the adaptive weight of
        one that is made of several micro-batches.
        """
        bottleneck = self.tokenizer.bottleneck
        bottleneck.step_begin(bottleneck.taken + step)
        if bottleneck.wants_survey(len(batches)):
            keys = [key for batch in batches for key in batch["key"]]
            features = [self.tokenizer.features(self._seen(b)[0].images) for b in batches]
            bottleneck.survey(features, keys)
        if self._weighs_ahead(len(batches), step):
            assert isinstance(self._balance, Adaptive)
            bottleneck.observing = False
            try:
                pairs = [self._last_layer_pair(batch, step) for batch in batches]
            finally:  # where memory runs out, the step is taken again
                bottleneck.observing = True
            self.adaptive_weight = self._balance.scale(*all_mean(torch.stack(pairs).mean(0)))

    def _seen(self, batch: Batch) -> tuple[Corrupted, Generators]:
        """What the encoder sees of a batch, and what else of its chance there is."""
        images, chance = batch["image"], generators(batch["key"])
        return (self.corruption(images, chance) if self.corruption else Corrupted(images)), chance

    def _rebuild(self, batch: Batch) -> "Rebuilt":
        seen, chance = self._seen(batch)
        told = self.tokenizer.bottleneck.told(batch)
        latent = self.tokenizer.encode(seen.images, chance, None, **told)
        with captured_input(self.tokenizer.last_layer) as captured:
            maps = self.tokenizer.decode_maps(latent.z)
        return Rebuilt(latent, maps, captured[0].detach().float(), seen, chance)

    def _image_terms(
        self, maps: Float[Tensor, "b maps H W"], real: Images, step: int, counted: Counted
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Terms of the image, weighted but for the adversary's, each one's gradient at all that
        the decoder emits, and those that have parameters of their own, with the graph to these.
        """
        values: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}
        tuned: dict[str, Tensor] = {}

        def take(name: str, score: Callable[[Tensor], Tensor], own: bool = False) -> None:
            with torch.enable_grad():
                leaf = maps.clone().requires_grad_()
                value = score(leaf)
                if own:  # A term's own parameters learn by another graph: this one is freed here.
                    tuned[name] = score(maps)
            gradients[name] = gradient(value, leaf, self.scaler)
            values[name] = value.detach()

        channels = self.tokenizer.channels
        for name, term in self.terms.items():
            read: int = channels * term.maps  # type: ignore[operator,assignment]
            own = any(parameter.requires_grad for parameter in term.parameters())
            take(name, partial(self._score, name, read, real, counted), own)
        if self._is_opposed(step):
            assert self.opponent
            adversary, judge = self.opponent
            take(ADVERSARIAL, lambda x: adversary.loss.generator(
                judge(counting(x[:, :channels], real, counted))).mean())  # fmt: skip
        return values, gradients, tuned

    def _score(
        self, name: str, read: int, real: Images, counted: Counted, maps: Tensor
    ) -> Float[Tensor, ""]:
        return self.weights[name] * self.terms[name](maps[:, :read], real, counted).mean()

    def _is_opposed(self, step: int) -> bool:
        return self.opponent is not None and step >= self.opponent[0].effect_start

    @property
    def _balance(self) -> Adaptive | Fixed:
        assert self.opponent
        return self.opponent[0].balance

    def _adversarial_weight(self, last: Tensor, gradients: Mapping[str, Tensor]) -> Tensor:
        if self.adaptive_weight is not None:
            return self.adaptive_weight
        match self._balance:
            case Fixed(weight):
                return last.new_full((), weight)
            case Adaptive() as adaptive:
                # Ranks must agree on it, so it comes from the gradients of the global batch.
                return adaptive.scale(*all_mean(self._at_last_layer(last, gradients)))

    def _last_layer_pair(self, batch: Batch, step: int) -> Float[Tensor, "2 ..."]:
        _, maps, last, seen, _ = self._rebuild(batch)
        _, gradients, _ = self._image_terms(maps.float(), batch["image"], step, seen.counted)
        return self._at_last_layer(last, gradients)

    def _at_last_layer(
        self, last: Tensor, gradients: Mapping[str, Tensor]
    ) -> Float[Tensor, "2 ..."]:
        """Gradients of the last layer's weight: of all other terms together, of the adversary."""
        others = [gradient for name, gradient in gradients.items() if name != ADVERSARIAL]
        layer = self.tokenizer.last_layer
        # Stride 1, and the padding of a 3x3 kernel: conv_out keeps the image's size.
        padding = layer.kernel_size[0] // 2
        both = (torch.stack(others).sum(0), gradients[ADVERSARIAL])
        shape = layer.weight.shape
        with _no_autocast(last):
            shapes = [g.view(len(g), layer.out_channels, *last.shape[2:]) for g in both]
            return torch.stack([conv2d_weight(last, shape, g, padding=padding) for g in shapes])

    def stage(self, step: int) -> int:
        """The adversary costs a discriminator's activations more."""
        return int(self._is_opposed(step))

    def step_end(self, step: int) -> Rows:
        """Let the bottleneck's statistics follow the step."""
        self.adaptive_weight = None
        return self.tokenizer.bottleneck.step_end()

    def step_skipped(self) -> None:
        """Forget what the bottleneck gathered, and the step's adaptive weight."""
        self.adaptive_weight = None
        self.tokenizer.bottleneck.step_skipped()

    def warning(self) -> str | None:
        """What the bottleneck has to say."""
        return self.tokenizer.bottleneck.warning()

    @torch.no_grad()
    def preview(self) -> Float[Tensor, "n c H W"] | None:
        """The examples, what the encoder sees of them if that is another, and their
        reconstructions, side by side.
        """
        return framed([self._pairs(real) for real in self.examples]) if self.examples else None

    def _pairs(self, real: Images) -> Float[Tensor, "n c H W"]:
        real = real.to(self.tokenizer.last_layer.weight.device)
        with computing(self.precision, real.device, *self.tokenizer.networks):
            seen, chance = self._seen({"image": real, "key": list(range(len(real)))})
            fake = self.tokenizer.decode(self.tokenizer.encode(seen.images, chance).z)
        shown = [real, seen.images, fake] if self.corruption else [real, fake]
        return torch.stack([each.clamp(-1, 1) for each in shown], dim=1).flatten(0, 1).cpu()


class Rebuilt(NamedTuple):
    """A batch on its way through the tokenizer."""

    latent: Latent
    maps: Float[Tensor, "b maps H W"]
    """All that the decoder makes of it."""
    last: Float[Tensor, "b features _ _"]
    """What its last layer reads."""
    seen: Corrupted
    """What was encoded, and which pixels count."""
    chance: Generators
    """Of what else is random."""


def psnr(fake: Images, real: Images) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]; fakes are clipped first. Equal images
    have 100 dB, so that means stay finite. Of images with alpha it is that on white.
    """
    error = (fake.clamp(-1, 1) - real)[:, :3].square().mean((1, 2, 3))
    return -10 * torch.log10((error / 4).clamp_min(1e-10))


def _no_autocast(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
