"""Masked autoencoders (He et al. 2022): transformers' ViTMAEForPreTraining, as it stands."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import transformers
from calotype.tokenizers.gradients import Images
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.devices import computing
from calotype.training.images import Mode
from calotype.training.noise import Generators, generators, sent
from calotype.training.sheet import framed

Order = Float[Tensor, "b patches"]
"""A number for each patch, row by row: those with the smallest are seen."""


class Policy(ABC):
    """Which patches are hidden."""

    @abstractmethod
    def order(self, network: Any, images: Images, chance: Generators, step: int) -> Order:
        """Order the patches of images."""


@dataclass(frozen=True)
class AtRandom(Policy):
    """Any, each as likely (He et al. 2022, section 3)."""

    def order(self, network: Any, images: Images, chance: Generators, step: int) -> Order:
        """Draw it."""
        patches = network.config.image_size // network.config.patch_size
        drawn = [torch.rand(patches * patches, generator=g) for g in chance]
        return sent(torch.stack(drawn), images.device)


@dataclass(frozen=True)
class Guided(Policy):
    """Experimental: one of two clusters of patches first, which the network's own features tell
    (Shin et al. 2024, "Self-guided masked autoencoder", section 3), but for some hints of it. At
    the scale of tests nothing was found that speaks for it.
    """

    begins: int = 1000
    """Optimiser steps before it, by which patches are hidden at random."""
    hints: float = 0.1
    """Share of the cluster's patches that is seen."""

    def __post_init__(self) -> None:
        if self.begins < 0:
            raise ValueError(f"policy.begins is {self.begins}: it must be 0 or more")
        if not 0 <= self.hints < 1:
            raise ValueError(f"policy.hints is {self.hints}: it lies in [0, 1)")

    @torch.no_grad()
    def order(self, network: Any, images: Images, chance: Generators, step: int) -> Order:
        """Draw it; patches of the smaller cluster come last."""
        drawn = AtRandom().order(network, images, chance, step)
        if step < self.begins:
            return drawn
        inside = smaller_cluster(whole_features(network, images))
        return drawn + (inside & (drawn > self.hints)).to(drawn)


@dataclass(frozen=True)
class MaskedViT:
    """Sizes of the transformers; of those of the paper, ViT-B (its table 8 and appendix A.1)."""

    patch: int = 16
    """Pixels a side."""
    width: int = 768
    layers: int = 12
    heads: int = 12
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    hidden: float = 0.75
    """Share of patches that are hidden: the encoder does not read them, so that it takes a quarter
    of the time."""
    normalised: bool = True
    """Whether a patch is predicted less its mean and by its deviation (section 4.1)."""

    def __post_init__(self) -> None:
        if not 0 < self.hidden < 1:
            raise ValueError(f"network.hidden is {self.hidden}: it lies between 0 and 1")
        for name in ("width", "decoder_width"):
            heads = self.heads if name == "width" else self.decoder_heads
            if (value := getattr(self, name)) % 4 or value % heads:
                raise ValueError(
                    f"network.{name} is {value}: choose a multiple of 4 and of its {heads} heads"
                )

    def build(self, size: int, channels: int = 3) -> "transformers.ViTMAEForPreTraining":
        """One with fresh weights, for images of `size` pixels a side.

        Raises:
            ValueError: patches do not fill them.
        """
        if size % self.patch:
            raise ValueError(
                f"network.patch is {self.patch} and does not divide images of {size} pixels: "
                "choose one that does"
            )
        config: Any = transformers.ViTMAEConfig(
            hidden_size=self.width, num_hidden_layers=self.layers, num_attention_heads=self.heads,
            intermediate_size=4 * self.width, image_size=size, patch_size=self.patch,
            num_channels=channels, decoder_hidden_size=self.decoder_width,
            decoder_num_hidden_layers=self.decoder_layers,
            decoder_num_attention_heads=self.decoder_heads,
            decoder_intermediate_size=4 * self.decoder_width, mask_ratio=self.hidden,
            norm_pix_loss=self.normalised, layer_norm_eps=1e-6,
        )  # fmt: skip
        network: Any = transformers.ViTMAEForPreTraining(config)
        _begin(network)
        return network


@torch.no_grad()
def _begin(network: Any) -> None:
    """Weights as in appendix A.1; patches get their places, and the tokens of class and mask their
    first values. transformers 5 takes these for initialised before it comes to them and leaves all
    at 0, so that no patch is told where it is.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    embeddings = network.vit.embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    network.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)


class MaskedPatches(Objective):
    """Predict what is hidden of a picture from what is seen."""

    def __init__(
        self, network: "transformers.ViTMAEForPreTraining", policy: Policy, optimizer: AdamW,
        examples: Sequence[Images] = (),
    ) -> None:  # fmt: skip
        super().__init__(optimizer)
        self.network, self.policy, self.examples = network, policy, examples

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Both transformers."""
        return self.network.vit, self.network.decoder

    def forward(self, batch: Batch, step: int) -> Losses:
        """The mean squared error of hidden patches; `batch["image"]` is float32 [b, c, H, W] in
        [-1, 1].
        """
        images = batch["image"]
        order = self.policy.order(self.network, images, generators(batch["key"]), step)
        found = self.network(pixel_values=images, noise=order)
        self.metrics["mean_fill"] = self._mean_fill(images, found.mask)
        return {"masked": found.loss.float()}

    @torch.no_grad()
    def _mean_fill(self, images: Images, mask: Order) -> Float[Tensor, ""]:
        """The loss of one who knows each picture's mean colour and no more, or of normalised
        patches the mean, which is 0: what is to be beaten.
        """
        if self.network.config.norm_pix_loss:
            patches = self.network.patchify(images)
            variance = patches.var(-1)
            error = variance / (variance + 1e-6) * (1 - 1 / patches.shape[-1])
        else:
            away = images - images.mean((2, 3), keepdim=True)
            error = self.network.patchify(away).square().mean(-1)
        return (error * mask).sum() / mask.sum()

    @torch.no_grad()
    def preview(self) -> Float[Tensor, "n c H W"] | None:
        """Examples, what is seen of them, and these with what is predicted."""
        return framed([self._shown(real) for real in self.examples]) if self.examples else None

    def _shown(self, real: Images) -> Float[Tensor, "n c H W"]:
        device = next(self.network.parameters()).device
        real = real.to(device)
        with computing(self.precision, device, *self.networks):
            order = AtRandom().order(self.network, real, generators(range(len(real))), 0)
            found = self.network(pixel_values=real, noise=order)
        predicted, patches = found.logits.float(), self.network.patchify(real)
        if self.network.config.norm_pix_loss:  # Of a hidden patch neither is known but here.
            spread = patches.var(-1, keepdim=True)
            predicted = predicted * (spread + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
        hidden = found.mask[..., None] > 0
        seen, filled = (self.network.unpatchify(torch.where(hidden, other, patches))
                        for other in (torch.zeros_like(patches), predicted))  # fmt: skip
        rows = [each.clamp(-1, 1) for each in (real, seen, filled)]
        return torch.stack(rows, dim=1).flatten(0, 1).cpu()


@torch.no_grad()
def whole_features(network: Any, images: Images) -> Float[Tensor, "b patches width"]:
    """What the encoder makes of each patch where all are seen, in their own order."""
    ratio, network.config.mask_ratio = network.config.mask_ratio, 0.0
    try:
        patches = (network.config.image_size // network.config.patch_size) ** 2
        order = torch.arange(patches, device=images.device).expand(len(images), -1).float()
        return network.vit(pixel_values=images, noise=order).last_hidden_state[:, 1:].float()
    finally:
        network.config.mask_ratio = ratio


def smaller_cluster(features: Float[Tensor, "b patches width"]) -> Tensor:
    """Which patches are of the smaller half of a normalised cut (Shi & Malik 2000) of the graph of
    their likeness: bool [b, patches].
    """
    unit = nn.functional.normalize(features - features.mean(1, keepdim=True), dim=-1)
    weights = (unit @ unit.mT).clamp_min(0)
    degree = weights.sum(-1).clamp_min(1e-6).rsqrt()
    laplacian = (
        torch.eye(len(degree[0])).to(weights) - degree[..., None] * weights * degree[:, None]
    )
    second = torch.linalg.eigh(laplacian).eigenvectors[..., 1] * degree
    side = second > second.mean(-1, keepdim=True)
    return torch.where(side.float().mean(-1, keepdim=True) > 0.5, ~side, side)


def save_masked(network: Any, mode: Mode, folder: Any) -> None:
    """Write a stock folder: the two transformers, and how pictures become what they read."""
    network.save_pretrained(folder, safe_serialization=True)
    size, channels = network.config.image_size, network.config.num_channels
    half = [0.5] * channels
    transformers.ViTImageProcessor(
        size={"height": size, "width": size}, image_mean=half, image_std=half,
        do_convert_rgb=mode == "RGB",
    ).save_pretrained(folder)  # fmt: skip


def rate(batch_size: int, base: float = 1.5e-4) -> float:
    """The learning rate of a batch, by the paper's rule: `base` for each 256 samples."""
    return base * batch_size / 256


PolicySpec = AtRandom | Guided
