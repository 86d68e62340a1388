"""The two players of tokenizer training: one rebuilds images, one tells them from real ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from calotype.tokenizers.terms import R1, Adversary, LeCAM, PatchDiscriminator, Term
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.distributed import all_mean
from calotype.training.noise import generators

Images = Float[Tensor, "b 3 H W"]
Weighted = Mapping[str, tuple[float, Term]]


class Reconstruction(Objective):
    """Rebuild the image; pay for every term and for the bottleneck's own.

    Each term of the image is differentiated once, at the image; the gradients' weighted sum then
    goes through the decoder once. So a term's parameters (a discriminator's) never receive any of
    it, one term's graph is freed before the next is built, and the adaptive weight of the
    adversary costs two small products instead of two passes through the decoder's end.
    """

    def __init__(
        self, tokenizer: ImageTokenizer, terms: Weighted, optimizer: AdamW,
        examples: Images | None = None,
    ) -> None:  # fmt: skip
        super().__init__(optimizer)
        self.tokenizer = tokenizer
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        self.examples = examples
        self.opponent: tuple[Adversary, PatchDiscriminator] | None = None
        self.fake = torch.empty(0)

    def forward(self, batch: Batch, step: int) -> Losses:
        """Score images: `batch["image"]` is float32 [b, 3, H, W] in [-1, 1]."""
        real = batch["image"]
        latent = self.tokenizer.encode(real, generators(batch["key"]))
        with _captured_input(self.tokenizer.last_layer) as captured:
            fake = self.tokenizer.decode(latent.z)
        self.fake = fake.detach().float()
        with torch.autocast(real.device.type, enabled=False):
            losses = self._image_losses(fake, real, captured[0], step)
        self.metrics["psnr"] = psnr(self.fake, real).mean()
        sites = {name: term.mean() / real[0].numel() for name, term in latent.terms.items()}
        return losses | sites

    def _image_losses(self, fake: Tensor, real: Tensor, last: Tensor, step: int) -> Losses:
        gradients: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            leaf = self.fake.clone().requires_grad_()
            values[name] = self.weights[name] * term(leaf, real).mean()
            gradients[name] = torch.autograd.grad(values[name], leaf)[0]
        if self.opponent and step >= self.opponent[0].effect_start:
            values["adversarial"], gradients["adversarial"] = self._adversarial(last, gradients)
        return {n: _WithGradient.apply(fake, values[n].detach(), gradients[n]) for n in values}

    def _adversarial(self, last: Tensor, others: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        assert self.opponent
        adversary, discriminator = self.opponent
        leaf = self.fake.clone().requires_grad_()
        value = adversary.loss.generator(discriminator(leaf)).mean()
        gradient = torch.autograd.grad(value, leaf)[0]
        reconstruction = torch.stack(list(others.values())).sum(0)
        # Ranks must agree on the weight, so it comes from the gradients of the global batch.
        scale = adversary.balance.scale(
            all_mean(self._last_layer_gradient(last, reconstruction)),
            all_mean(self._last_layer_gradient(last, gradient)),
        )
        self.metrics["adversarial_weight"] = scale
        return scale * value, scale * gradient

    def _last_layer_gradient(self, last: Tensor, gradient: Tensor) -> Tensor:
        layer = self.tokenizer.last_layer
        # Stride 1, and the padding of a 3x3 kernel: conv_out keeps the image's size.
        padding = layer.kernel_size[0] // 2
        return conv2d_weight(last.detach().float(), layer.weight.shape, gradient, padding=padding)

    @torch.no_grad()
    def preview(self) -> Float[Tensor, "n 3 H W"] | None:
        """The examples and their reconstructions, side by side."""
        if self.examples is None:
            return None
        real = self.examples.to(self.tokenizer.last_layer.weight.device)
        fake = self.tokenizer.decode(self.tokenizer.encode(real, generators(range(len(real)))).z)
        return torch.stack([real, fake.clamp(-1, 1)], dim=1).flatten(0, 1).cpu()


class Critic(Objective):
    """Tell real images from rebuilt ones.

    It judges the very reconstructions that `opponent` made of this batch, detached: one pass
    through the tokenizer serves both players.
    """

    def __init__(self, adversary: Adversary, opponent: Reconstruction, optimizer: AdamW) -> None:
        super().__init__(optimizer)
        self.adversary, self.discriminator = adversary, adversary.build()
        self.opponent = (opponent,)
        opponent.opponent = (adversary, self.discriminator)
        # LeCAM's averages of the real and the fake logits, and this step's sums and count.
        self.register_buffer("averages", torch.zeros(2))
        self.register_buffer("sums", torch.zeros(3))
        self.averages: Tensor
        self.sums: Tensor

    def forward(self, batch: Batch, step: int) -> Losses:
        """Score the images and their reconstructions."""
        if step < self.adversary.start:
            return {}
        real_images = batch["image"]
        penalised = isinstance(self.adversary.regulariser, R1)
        if penalised:
            real_images = real_images.detach().requires_grad_()
        real, fake = self._logits(real_images), self._logits(self.opponent[0].fake)
        self.metrics = {"logits_real": real.detach().mean(), "logits_fake": fake.detach().mean()}
        losses = {"discriminator": self.adversary.loss.discriminator(real, fake).mean()}
        match self.adversary.regulariser:
            case R1(gamma):
                losses["r1"] = gamma / 2 * squared_gradient(real, real_images).mean()
            case LeCAM(weight):
                losses["lecam"] = weight * self._lecam(real, fake).mean()
        return losses

    def _logits(self, images: Images) -> Float[Tensor, "b 1 h w"]:
        return self.discriminator(images).float()

    def _lecam(self, real: Tensor, fake: Tensor) -> Float[Tensor, " b"]:
        # The averages of earlier steps, so that micro-batches and ranks see the same ones.
        means = torch.stack([real.detach().mean(), fake.detach().mean(), self.sums.new_ones(())])
        self.sums += means
        average_real, average_fake = self.averages
        near = (real - average_fake).relu().square() + (average_real - fake).relu().square()
        return near.mean((1, 2, 3))

    def step_end(self, step: int) -> None:
        """Let LeCAM's averages follow the logits of this step, of all ranks."""
        if isinstance(self.adversary.regulariser, LeCAM) and step >= self.adversary.start:
            sums = all_mean(self.sums)
            self.averages.lerp_(sums[:2] / sums[2], 1 - self.adversary.regulariser.decay)
            self.sums.zero_()

    def step_skipped(self) -> None:
        """Drop the logits of a step that was not taken."""
        self.sums.zero_()


def squared_gradient(
    logits: Float[Tensor, "b 1 h w"], images: Float[Tensor, "b 3 H W"]
) -> Float[Tensor, " b"]:
    """|d (mean logit) / d image|^2 summed over each image, itself differentiable."""
    scores = logits.mean((1, 2, 3)).sum()
    (gradient,) = torch.autograd.grad(scores, images, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def psnr(fake: Images, real: Images) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]; fakes are clipped first. Equal images
    have 100 dB, so that means stay finite.
    """
    error = (fake.clamp(-1, 1) - real).square().mean((1, 2, 3))
    return -10 * torch.log10((error / 4).clamp_min(1e-10))


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
