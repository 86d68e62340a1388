"""A small fast autoencoder that learns from a tokenizer: stock AutoencoderTiny (TAESD's design).

It lives in the latents that the tokenizer's pipelines denoise, so that it takes its place in them:
its decoder learns from what the tokenizer's decodes, its encoder from what that one's encodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.lazy import diffusers
from calotype.tokenizers.objectives import Examples, Images, Weighted, psnr
from calotype.tokenizers.stock import load_autoencoder, mode_of
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.devices import computing
from calotype.training.images import CHANNELS, Mode
from calotype.training.noise import Generators, generators
from calotype.training.sheet import framed

REPORT = "distillation.json"
"""Beside a student: how near it comes to its teacher, and how much faster it is."""


@dataclass(frozen=True)
class NewTiny:
    """An AutoencoderTiny with fresh weights."""

    width: int = 64
    """Channels of every resolution."""
    blocks: int = 3
    """Residual blocks of each resolution but the picture's own, which has one."""

    def __post_init__(self) -> None:
        for name in ("width", "blocks"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"student.{name} is {value}: it must be at least 1")

    def build(self, channels: int, factor: int, mode: Mode = "RGB") -> "diffusers.AutoencoderTiny":
        """Make it, for latents of so many channels, of which a site is `factor` pixels a side, of
        pictures in a mode.
        """
        levels = factor.bit_length()
        widths = (self.width,) * levels
        blocks = (*[self.blocks] * (levels - 1), 1)
        return diffusers.AutoencoderTiny(
            in_channels=CHANNELS[mode], out_channels=CHANNELS[mode],
            latent_channels=channels, encoder_block_out_channels=widths,
            decoder_block_out_channels=widths, num_encoder_blocks=blocks[::-1],
            num_decoder_blocks=blocks,
        )  # fmt: skip


@dataclass(frozen=True)
class TrainedTiny:
    """An AutoencoderTiny that is there, such as TAESD, which learns on."""

    path: str = "madebyollin/taesd"
    """Folder of one, or a name on the Hub."""

    def build(self, channels: int, factor: int, mode: Mode = "RGB") -> "diffusers.AutoencoderTiny":
        """Load it.

        Raises:
            ValueError: there is none, or it has other latents or takes other pictures.
        """
        found: Any = load_autoencoder(self.path, ("AutoencoderTiny",))
        has = found.config["latent_channels"], 2 ** (len(found.config["num_decoder_blocks"]) - 1)
        if has != (channels, factor):
            raise ValueError(
                f"student.path: {self.path} has latents of {has[0]} channels at 1/{has[1]} of a "
                f"picture's side, and the teacher of {channels} at 1/{factor}: choose "
                "student:new-tiny"
            )
        if (own := mode_of(found)) != mode:
            raise ValueError(
                f"student.path: {self.path} takes {own}, and the teacher {mode}: choose "
                "student:new-tiny"
            )
        return found


Student = NewTiny | TrainedTiny


class Teacher:
    """A tokenizer, by what its pipelines see of it.

    Args:
        tokenizer: Frozen, where training computes.
    """

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        config = tokenizer.autoencoder.config
        self.scale = float(config.get("scaling_factor") or 1.0)
        self.shift = float(config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def latents(
        self, images: Images, generator: Generators
    ) -> tuple[Float[Tensor, "b z h w"], Float[Tensor, "b z h w"]]:
        """Latents as pipelines denoise them: drawn, and the likeliest."""
        features, bottleneck = self.tokenizer.features(images), self.tokenizer.bottleneck
        drawn = bottleneck.unpack(bottleneck.pack(features), generator)
        return self._scaled(drawn), self._scaled(bottleneck.mode(features))

    def _scaled(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b z h w"]:
        return (z.float() - self.shift) * self.scale

    @torch.no_grad()
    def pictures(self, latents: Float[Tensor, "b z h w"]) -> Images:
        """What it decodes, in [-1, 1]."""
        return self.tokenizer.decode(latents / self.scale + self.shift).float().clamp(-1, 1)


class Distillation(Objective):
    """Decode latents as the teacher does, and encode pictures as it does.

    Args:
        student: What is trained.
        teacher: What is learnt from.
        terms: Distances of pictures, each with its weight.
        optimizer: Of the student.
        originals: Fraction of each distance that is to the original picture and not to the
            teacher's.
        encoding: Weight of the mean squared error of encoded latents.
        examples: Pictures that are shown while it trains, of each shape a batch.
    """

    measured_by_all = True

    def __init__(
        self, student: "diffusers.AutoencoderTiny", teacher: Teacher, terms: Weighted,
        optimizer: AdamW, originals: float = 0.0, encoding: float = 1.0,
        examples: Examples = (),
    ) -> None:  # fmt: skip
        super().__init__(optimizer)
        self.student, self.consulted = student, (teacher,)
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        self.originals, self.encoding, self.examples = originals, encoding, examples

    @property
    def teacher(self) -> Teacher:
        """What is learnt from."""
        return self.consulted[0]

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Encoder and decoder of the student."""
        return self.student.encoder, self.student.decoder

    def forward(self, batch: Batch, step: int) -> Losses:
        """Score images: `batch["image"]` is float32 [b, c, H, W] in [-1, 1]."""
        real = batch["image"]
        latents, likeliest = self.teacher.latents(real, generators(batch["key"]))
        shown, fake = self.teacher.pictures(latents), self.student.decoder(latents).float()
        losses = {name: self._distance(name, fake, shown, real) for name in self.terms}
        encoded = self.student.encoder(real).float()
        losses["encoding"] = self.encoding * functional.mse_loss(encoded, likeliest)
        self.metrics = {"psnr_to_teacher": psnr(fake.detach(), shown).mean()}
        return losses

    def _distance(self, name: str, fake: Images, shown: Images, real: Images) -> Tensor:
        term, share = self.terms[name], self.originals
        both = [part * term(fake, target).mean()
                for part, target in ((1 - share, shown), (share, real)) if part]  # fmt: skip
        return self.weights[name] * torch.stack(both).sum()

    @torch.no_grad()
    def preview(self) -> Float[Tensor, "n c H W"] | None:
        """The examples, each before what teacher and student make of them."""
        return framed([self._rows(real) for real in self.examples]) if self.examples else None

    def _rows(self, real: Images) -> Float[Tensor, "n c H W"]:
        real = real.to(next(self.student.parameters()).device)
        with computing(
            self.precision, real.device, *self.networks, *self.teacher.tokenizer.networks
        ):
            latents = self.teacher.latents(real, generators(range(len(real))))[1]
            rows = real, self.teacher.pictures(latents), self.student.decoder(latents)
        return torch.stack([row.float().clamp(-1, 1) for row in rows], 1).flatten(0, 1).cpu()
