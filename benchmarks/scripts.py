"""The training steps of diffusers' scripts, written after them from the batch on, to measure
beside.

Both take one batch for the autoencoder and one for the discriminator, by turns, and both find the
adaptive weight by two further passes back to the decoder's last layer. What would make a script
cheaper than the job, or spoil what it makes, is mended here unless a KLScript is told otherwise:
train_autoencoderkl.py's LPIPS has no gradient, and each player moves by the other's gradients too;
train_vqgan.py's images lie in [0, 1], which no pipeline expects. What costs it is left. Networks,
LPIPS and discriminator are the caller's, so the same as ours: train_vqgan.py's own perceptual term
would resize 64 pixels to 224.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from diffusers.training_utils import EMAModel
from paired import DEVICE
from torch import Tensor
from torch.nn import functional

from calotype.tokenizers.terms import PatchDiscriminator, PerceptualTerm


class Script(ABC):
    """Two learners by turns.

    Args:
        model: The autoencoder.
        lpips: Of two batches of images, [b].
        lr: Of both learners.
        start: Step from which there is an adversary.
        dtype: Of the weights, as the scripts cast them.
    """

    def __init__(
        self, model: Any, lpips: PerceptualTerm, lr: float, start: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.model, self.lpips = model.to(DEVICE, dtype).train(), lpips.to(DEVICE, dtype)
        self.lpips.network.lins.float()  # compares in float32
        self.critic = PatchDiscriminator().to(DEVICE, dtype).train()
        learners = (self.model, self.critic)
        self.optimizers = [torch.optim.AdamW(each.parameters(), lr) for each in learners]
        self.average = EMAModel(self.model.parameters(), decay=0.9999)
        self.start, self.dtype, self.steps = start, dtype, 0

    def step(self, images: Tensor) -> None:
        """One of the script's: of one player."""
        images = images.to(DEVICE, self.dtype)
        if self.steps % 2 == 0 or self.steps < self.start:
            self.rebuild(images)
        else:
            self.judge(images)
        self.average.step(self.model.parameters())
        self.steps += 1

    @abstractmethod
    def rebuild(self, images: Tensor) -> None:
        """The autoencoder's."""

    @abstractmethod
    def judge(self, images: Tensor) -> None:
        """The discriminator's."""

    def last_layer_norms(self, *losses: Tensor) -> list[Tensor]:
        """Of the gradients of the decoder's last weight."""
        last = self.model.decoder.conv_out.weight
        return [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in losses]

    def move(self, player: int, loss: Tensor) -> None:
        """Take a step."""
        module = (self.model, self.critic)[player]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        self.optimizers[player].step()


class KLScript(Script):
    """train_autoencoderkl.py. Either player's loss goes back through both."""

    teaching = True
    """LPIPS has a gradient."""
    leaking = False
    """A player moves by what the other's loss left in its gradients, too: the discriminator learns
    above all to please the decoder."""

    model: AutoencoderKL

    def rebuild(self, images: Tensor) -> None:
        """L1, LPIPS, KL 1e-6, adaptive adversary 0.5."""
        posterior, fake = self._forward(images)
        pixel = (fake.float() - images.float()).abs()
        with torch.set_grad_enabled(self.teaching):
            perceptual = self.lpips(fake, images).view(-1, 1, 1, 1)
        rebuilt = (pixel + perceptual).sum() / len(fake)
        fooled = -self.critic(fake).mean()
        first, second = self.last_layer_norms(rebuilt, fooled)
        weight = 0.5 * (first / (second + 1e-4)).clamp(0, 1e4).detach()
        weight = weight * float(self.steps >= self.start)
        self._clear(0)
        self.move(0, rebuilt + 1e-6 * posterior.kl().sum() / len(fake) + weight * fooled)
        self.optimizers[0].zero_grad(set_to_none=True)

    def judge(self, images: Tensor) -> None:
        """Hinge."""
        _, fake = self._forward(images)
        self._clear(1)
        self.move(1, hinge(self.critic(images), self.critic(fake)) / 2)
        self.optimizers[1].zero_grad(set_to_none=True)

    def _clear(self, player: int) -> None:
        if not self.leaking:
            self.optimizers[player].zero_grad(set_to_none=True)

    def _forward(self, images: Tensor) -> tuple[Any, Tensor]:
        posterior: Any = self.model.encode(images).latent_dist  # type: ignore[union-attr]
        decoded: Any = self.model.decode(posterior.sample())
        return posterior, decoded.sample


class VQScript(Script):
    """train_vqgan.py: what is moved next is cleared first; the discriminator pays ten times the
    squared distance of its gradient's length from 1, on real images.
    """

    model: VQModel

    def rebuild(self, images: Tensor) -> None:
        """L2, LPIPS, commitment, adaptive adversary."""
        self.optimizers[0].zero_grad(set_to_none=True)
        fake, commitment = self.model(images, return_dict=False)
        perceptual = self.lpips(fake, images).mean()
        fooled = -self.critic(fake).mean()
        first, second = self.last_layer_norms(perceptual, fooled)
        weight = (first / second.clamp(min=1e-8)).clamp(max=1e4)
        pixel = functional.mse_loss(images, fake)
        self.move(0, pixel + perceptual + commitment + weight * fooled)

    def judge(self, images: Tensor) -> None:
        """Hinge and the penalty."""
        self.optimizers[1].zero_grad(set_to_none=True)
        fake, _ = self.model(images, return_dict=False)
        images = images.detach().requires_grad_()
        real = self.critic(images)
        loss = hinge(real, self.critic(fake.detach()))
        (gradient,) = torch.autograd.grad(real.sum(), images, create_graph=True)
        self.move(1, loss + 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean())


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Of both."""
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
