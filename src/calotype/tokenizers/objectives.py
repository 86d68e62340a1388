"""The two learners of tokenizer training: one rebuilds images, one tells them from real ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.grad import conv2d_weight

from calotype.tokenizers.bottlenecks import Latent
from calotype.tokenizers.terms import (
    R1,
    Adaptive,
    Adversary,
    Fixed,
    LeCAM,
    PatchDiscriminator,
    PerceptualTerm,
    Term,
)
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.devices import computing
from calotype.training.distributed import all_mean
from calotype.training.noise import generators
from calotype.training.objective import Rows
from calotype.training.precision import UNSCALED, gradient
from calotype.training.sheet import framed

Images = Float[Tensor, "b c H W"]
Examples = Sequence[Float[Tensor, "_ _ _ _"]]
"""Images of several shapes, of each a batch."""
WON = 0.95
"""Share of patches told apart from which on a discriminator has won. Where the game is even it is
about half; Karras et al. (2020, "Training generative adversarial networks with limited data",
section 3.1) hold the sign of the logits of originals at 0.6, which is a share of 0.8."""
JUDGED = 50
"""Passes of the discriminator, at least, from which it is told whether it has won."""
Weighted = Mapping[str, tuple[float, Term]]
ADVERSARIAL = "adversarial"


class Reconstruction(Objective):
    """Rebuild the image; pay for every term and for the bottleneck's own.

    Each term of the image is differentiated once, at the image; the gradients' weighted sum then
    goes through the decoder once. So a term's parameters (a discriminator's) never receive any of
    it, one term's graph is freed before the next is built, and the adaptive weight of the
    adversary costs two small products instead of two passes through the decoder's end.
    """

    measured_by_all = True

    def __init__(
        self, tokenizer: ImageTokenizer, terms: Weighted, optimizer: AdamW,
        examples: Examples = (),
    ) -> None:  # fmt: skip
        super().__init__(optimizer)
        self.tokenizer = tokenizer
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        self.examples = examples
        self.opponent: tuple[Adversary, PatchDiscriminator] | None = None
        self.fake = torch.empty(0)
        self.adaptive_weight: Tensor | None = None

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
        latent, maps, last = self._rebuild(batch)
        emitted = maps.detach().float()
        self.fake = emitted[:, : self.tokenizer.channels]
        values, gradients = self._image_terms(emitted, real, step)
        if ADVERSARIAL in values:
            weight = self._adversarial_weight(last, gradients)
            self.metrics["adversarial_weight"] = weight
            values[ADVERSARIAL] *= weight
            gradients[ADVERSARIAL] *= weight
        losses = {n: _WithGradient.apply(maps, values[n], gradients[n]) for n in values}
        self.metrics["psnr"] = psnr(self.fake, real).mean()
        if self.tokenizer.mode == "RGBA":
            self.metrics["psnr_alpha"] = psnr(self.fake[:, 3:], real[:, 3:]).mean()
        rates = {name: term.mean() / real[0].numel() for name, term in latent.rates.items()}
        penalties = {name: term.mean() for name, term in latent.penalties.items()}
        self.metrics |= self.tokenizer.bottleneck.metrics
        return losses | rates | penalties

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
            bottleneck.survey([self.tokenizer.features(b["image"]) for b in batches], keys)
        if self._weighs_ahead(len(batches), step):
            assert isinstance(self._balance, Adaptive)
            bottleneck.observing = False
            try:
                pairs = [self._last_layer_pair(batch, step) for batch in batches]
            finally:  # where memory runs out, the step is taken again
                bottleneck.observing = True
            self.adaptive_weight = self._balance.scale(*all_mean(torch.stack(pairs).mean(0)))

    def _rebuild(self, batch: Batch) -> tuple[Latent, Tensor, Tensor]:
        """Latent, all that the decoder makes of it, and what its last layer reads."""
        latent = self.tokenizer.encode(batch["image"], generators(batch["key"]))
        with _captured_input(self.tokenizer.last_layer) as captured:
            maps = self.tokenizer.decode_maps(latent.z)
        return latent, maps, captured[0].detach().float()

    def _image_terms(
        self, maps: Float[Tensor, "b maps H W"], real: Images, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms of the image, weighted but for the adversary's, and each one's gradient at all
        that the decoder emits.
        """
        values: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}

        def take(name: str, score: Callable[[Tensor], Tensor]) -> None:
            with torch.enable_grad():
                leaf = maps.clone().requires_grad_()
                value = score(leaf)
            gradients[name] = gradient(value, leaf, self.scaler)
            values[name] = value.detach()

        channels = self.tokenizer.channels
        for name, term in self.terms.items():
            read = channels * term.maps  # type: ignore[operator]
            take(name, lambda x, n=name, t=term, r=read: self.weights[n] * t(x[:, :r], real).mean())
        if self._is_opposed(step):
            assert self.opponent
            adversary, judge = self.opponent
            take(ADVERSARIAL, lambda x: adversary.loss.generator(judge(x[:, :channels])).mean())
        return values, gradients

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
        _, maps, last = self._rebuild(batch)
        _, gradients = self._image_terms(maps.float(), batch["image"], step)
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
            return torch.stack([conv2d_weight(last, shape, g, padding=padding) for g in both])

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
        """The examples and their reconstructions, side by side."""
        return framed([self._pairs(real) for real in self.examples]) if self.examples else None

    def _pairs(self, real: Images) -> Float[Tensor, "n c H W"]:
        real = real.to(self.tokenizer.last_layer.weight.device)
        with computing(self.precision, real.device, *self.tokenizer.networks):
            latent = self.tokenizer.encode(real, generators(range(len(real))))
            fake = self.tokenizer.decode(latent.z)
        return torch.stack([real, fake.clamp(-1, 1)], dim=1).flatten(0, 1).cpu()


class Critic(Objective):
    """Tell real images from rebuilt ones.

    It judges the very reconstructions that `opponent` made of this batch, detached: one pass
    through the tokenizer serves both learners.
    """

    def __init__(self, adversary: Adversary, opponent: Reconstruction, optimizer: AdamW) -> None:
        super().__init__(optimizer)
        self.adversary = adversary
        self.discriminator = adversary.build(opponent.tokenizer.channels)
        self.opponent = (opponent,)
        opponent.opponent = (adversary, self.discriminator)
        # LeCAM's averages of the real and the fake logits, and this step's sums and count.
        self.register_buffer("averages", torch.zeros(2))
        self.register_buffer("sums", torch.zeros(3))
        self.averages: Tensor
        self.sums: Tensor
        # Shares of patches told apart since it was last asked for a warning, and how many shares.
        self.register_buffer("judged", torch.zeros(2), persistent=False)
        self.judged: Tensor

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The discriminator; not where it is differentiated twice, which no compiled one is."""
        return () if isinstance(self.adversary.regulariser, R1) else (self.discriminator,)

    def forward(self, batch: Batch, step: int) -> Losses:
        """Score the images and their reconstructions."""
        if step < self.adversary.start:
            return {}
        real_images: Images = batch["image"]
        penalised = isinstance(self.adversary.regulariser, R1)
        if penalised:
            real_images = real_images.detach().requires_grad_()
        real, fake = self.discriminator(real_images), self.discriminator(self.opponent[0].fake)
        apart = (real.detach() > 0).float().mean() / 2 + (fake.detach() < 0).float().mean() / 2
        self.metrics = {"logits_real": real.detach().mean(), "logits_fake": fake.detach().mean(),
                        "told_apart": apart}  # fmt: skip
        if step >= self.adversary.effect_start:
            self.judged += torch.stack([apart, torch.ones_like(apart)])
        losses = {"discriminator": self.adversary.loss.discriminator(real, fake).mean()}
        match self.adversary.regulariser:
            case R1(gamma):
                slopes = squared_gradient(real, real_images, self.scaler)
                losses["r1"] = gamma / 2 * slopes.mean()
            case LeCAM(weight):
                losses["lecam"] = weight * self._lecam(real, fake).mean()
        return losses

    def _lecam(self, real: Tensor, fake: Tensor) -> Float[Tensor, " b"]:
        # The averages of earlier steps, so that micro-batches and ranks see the same ones.
        means = torch.stack([real.detach().mean(), fake.detach().mean(), self.sums.new_ones(())])
        self.sums += means
        average_real, average_fake = self.averages
        near = (real - average_fake).relu().square() + (average_real - fake).relu().square()
        return near.mean((1, 2, 3))

    def stage(self, step: int) -> int:
        """Before its start it does nothing."""
        return int(step >= self.adversary.start)

    def step_end(self, step: int) -> Rows:
        """Let LeCAM's averages follow the logits of this step, of all ranks."""
        if isinstance(self.adversary.regulariser, LeCAM) and step >= self.adversary.start:
            sums = all_mean(self.sums)
            self.averages.lerp_(sums[:2] / sums[2], 1 - self.adversary.regulariser.decay)
            self.sums.zero_()
        return []

    def step_skipped(self) -> None:
        """Drop the logits of a step that was not taken."""
        self.sums.zero_()

    def warning(self) -> str | None:
        """That the discriminator has won: since it was last asked it told nearly all patches apart,
        while the decoder could feel it. A decoder that never deceives it is not shown how to.
        """
        apart, passes = all_mean(self.judged).tolist()
        if passes < JUDGED:
            return None
        self.judged.zero_()
        if apart / passes < WON:
            return None
        return (
            f"the discriminator has won: it tells {apart / passes:.1%} of patches apart, and the "
            "decoder learns little from it; choose a lower adversary.lr, a smaller adversary.width "
            f"or {self._regulariser}"
        )

    @property
    def _regulariser(self) -> str:
        match self.adversary.regulariser:
            case R1():
                return "a higher adversary.regulariser.gamma"
            case LeCAM():
                return "a higher adversary.regulariser.weight"
        return "adversary.regulariser:r1"


def squared_gradient(
    logits: Float[Tensor, "b 1 h w"], images: Images,
    scaler: GradScaler = UNSCALED,
) -> Float[Tensor, " b"]:  # fmt: skip
    """|d (mean logit) / d image|^2 summed over each image, itself differentiable."""
    scores = logits.mean((1, 2, 3)).sum()
    return gradient(scores, images, scaler, create_graph=True).square().sum((1, 2, 3))


def psnr(fake: Images, real: Images) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]; fakes are clipped first. Equal images
    have 100 dB, so that means stay finite. Of images with alpha it is that on white.
    """
    error = (fake.clamp(-1, 1) - real)[:, :3].square().mean((1, 2, 3))
    return -10 * torch.log10((error / 4).clamp_min(1e-10))


def _no_autocast(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient with respect to a tensor has been computed already."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = tensor.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return (upstream[0] * gradient).to(ctx.dtype), None, None


@contextmanager
def _captured_input(layer: nn.Module) -> Iterator[list[Tensor]]:
    captured: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        yield captured
    finally:
        handle.remove()
