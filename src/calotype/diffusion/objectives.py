"""What latent diffusion minimises."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.diffusion.processes import Process
from calotype.lazy import diffusers, transformers
from calotype.tokenizers.bottlenecks import Bottleneck
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.noise import Generators, gaussian, generators, sent, uniform

Denoiser = Union["diffusers.UNet2DModel", "diffusers.UNet2DConditionModel"]
TextEncoder = Union["transformers.CLIPTextModel", "transformers.CLIPTextModelWithProjection"]


@dataclass(frozen=True)
class LatentSource:
    """How cached rows become the latents that a pipeline denoises."""

    bottleneck: Bottleneck
    scaling_factor: float
    """Of the tokenizer's configuration: stock pipelines decode z / scaling_factor."""
    factor: int = 1
    """Pixels of an image to a side of a site."""

    def draw(self, packed: Tensor, generator: Generators) -> Float[Tensor, "b c h w"]:
        """Draw latents from stored moments."""
        return self.scaling_factor * self.bottleneck.unpack(packed, generator)


class Denoising(Objective):
    """Answer what a process asks: the error is a mean over latent elements, weighted by sample."""

    def __init__(
        self, unet: Denoiser, source: LatentSource, process: Process, optimizer: AdamW
    ) -> None:
        super().__init__(optimizer)
        self.unet, self.source, self.process = unet, source, process
        self.picture: Callable[[], Tensor] | None = None

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The UNet."""
        return (self.unet,)

    def forward(self, batch: Batch, step: int) -> Losses:
        """Score latents: `batch["packed"]` is what the tokenizer's bottleneck packs."""
        generator = generators(batch["key"])
        x0 = self.source.draw(batch["packed"], generator)
        noise = gaussian(x0.shape[1:], generator, x0.device)
        times = sent(self.process.times.draw(generator), x0.device)
        noised = self.process.noised(x0, noise, times)
        answer = self.answer(noised.noisy, noised.timestep, batch, generator)
        with torch.autocast(x0.device.type, enabled=False):
            error = (answer.float() - noised.target).square().mean((1, 2, 3))
            return {"denoising": (noised.weight * error).mean()}

    def preview(self) -> Float[Tensor, "n c H W"] | None:
        """What `picture` draws: images of a pipeline around the network."""
        return self.picture() if self.picture else None

    def answer(
        self, noisy: Tensor, timestep: Tensor, batch: Batch, generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """The network's answer."""
        return self.unet(noisy, timestep).sample


class TextDenoising(Denoising):
    """Denoising under a prompt, which some samples lose whole, so that guidance can be used
    (Ho & Salimans 2022, algorithm 1).
    """

    def __init__(
        self, unet: "diffusers.UNet2DConditionModel", text_encoder: TextEncoder,
        null: Int[Tensor, " length"], source: LatentSource, process: Process,
        optimizer: AdamW, drop: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(unet, source, process, optimizer)
        self.text_encoder, self.drop = text_encoder, drop
        self.register_buffer("null", null, persistent=False)
        self.null: Tensor

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The UNet and the text encoder."""
        return (self.unet, self.text_encoder)

    def train(self, mode: bool = True) -> "TextDenoising":
        """Leave a frozen text encoder as it is: without dropout."""
        super().train(mode)
        if not any(p.requires_grad for p in self.text_encoder.parameters()):
            self.text_encoder.eval()
        return self

    def answer(
        self, noisy: Tensor, timestep: Tensor, batch: Batch, generator: Generators
    ) -> Float[Tensor, "b c h w"]:
        """The network's answer, told each sample's prompt or the empty one."""
        dropped = sent(uniform(generator) < self.drop, noisy.device)
        tokens = torch.where(dropped[:, None], self.null, batch["tokens"])
        return self.told(noisy, timestep, tokens, batch)

    def told(
        self, noisy: Tensor, timestep: Tensor, tokens: Int[Tensor, "b length"], batch: Batch
    ) -> Float[Tensor, "b c h w"]:
        """The network's answer, told what the prompts' tokens say."""
        hidden = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timestep, hidden).sample


class FramedDenoising(TextDenoising):
    """Denoising under a prompt and a frame: how large the picture was and where it was cropped
    (Podell et al. 2023, section 2.2), which `batch["frame"]` has as `Transform.framed` says.

    As StableDiffusionXLPipeline does, the network attends to the last but one of the text encoder's
    states, and is told its projected one.
    """

    def told(
        self, noisy: Tensor, timestep: Tensor, tokens: Int[Tensor, "b length"], batch: Batch
    ) -> Float[Tensor, "b c h w"]:
        """The network's answer, told what the prompts' tokens say, and the frames."""
        said = self.text_encoder(tokens, output_hidden_states=True)
        own = torch.tensor(noisy.shape[2:]) * self.source.factor
        sizes = sent(own, noisy.device).expand(len(noisy), -1)
        numbers = torch.cat([batch["frame"][:, :4], sizes], dim=1).float()
        return self.unet(
            noisy, timestep, said.hidden_states[-2],
            added_cond_kwargs={"text_embeds": said.text_embeds, "time_ids": numbers},
        ).sample  # fmt: skip
