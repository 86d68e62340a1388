"""The adversary: a patch discriminator, what it and its opponent minimise, and how much of it."""

from dataclasses import dataclass, field

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Logits = Float[Tensor, "b 1 h w"]


@dataclass(frozen=True)
class Hinge:
    """Hinge loss (Lim & Ye 2017): the discriminator pushes logits beyond -1 and 1."""

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " b"]:
        """What the discriminator minimises."""
        return 0.5 * (_mean(F.relu(1 - real)) + _mean(F.relu(1 + fake)))

    def generator(self, fake: Logits) -> Float[Tensor, " b"]:
        """What the generator minimises."""
        return -_mean(fake)


@dataclass(frozen=True)
class NonSaturating:
    """The classifier's cross-entropy, labels flipped for the generator (Goodfellow et al. 2014)."""

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " b"]:
        """What the discriminator minimises, in nats per patch."""
        return 0.5 * (_mean(F.softplus(-real)) + _mean(F.softplus(fake)))

    def generator(self, fake: Logits) -> Float[Tensor, " b"]:
        """What the generator minimises, in nats per patch."""
        return _mean(F.softplus(-fake))


@dataclass(frozen=True)
class HingeNonSaturating:
    """The discriminator's hinge loss and the generator's cross-entropy (Open-MAGVIT2's pair)."""

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " b"]:
        """What the discriminator minimises."""
        return Hinge().discriminator(real, fake)

    def generator(self, fake: Logits) -> Float[Tensor, " b"]:
        """What the generator minimises, in nats per patch."""
        return NonSaturating().generator(fake)


@dataclass(frozen=True)
class Fixed:
    """The adversarial term counts for a constant."""

    weight: float = 0.1


@dataclass(frozen=True)
class Adaptive:
    """The term's gradient on the last layer is kept in proportion to the reconstruction's
    (Esser et al. 2021, eq. 7): of a whole optimiser step, on all ranks. Accumulated micro-batches
    are therefore each rebuilt once more, without gradients, before the first.
    """

    weight: float = 0.5
    largest: float = 1e4 / (3 * 256 * 256)
    """The proportion is never more than this: LDM's limit of 1e4, whose losses are sums over images
    of 256 pixels. Without one a discriminator that has lost is followed as far as it leads."""

    def scale(self, reference: Float[Tensor, "..."], adversarial: Float[Tensor, "..."]) -> Tensor:
        """Weight * |reference| / |adversarial|, from gradients on the last layer's weight."""
        ratio = reference.norm() / (adversarial.norm() + 1e-4)
        return self.weight * ratio.clamp(0.0, self.largest)


@dataclass(frozen=True)
class R1:
    """Gradient penalty on real images (Mescheder et al. 2018, eq. 9)."""

    gamma: float = 10.0
    """The penalty is gamma / 2 * |grad D(x)|^2, summed over each image's pixels."""


@dataclass(frozen=True)
class LeCAM:
    """Keeps logits near the moving average of the other kind's (Tseng et al. 2021, eq. 3)."""

    weight: float = 0.001
    decay: float = 0.999
    """Of the averages, per optimiser step."""


@dataclass(frozen=True)
class Adversary:
    """A PatchGAN discriminator and the game it plays with the decoder."""

    width: int = 64
    """Channels after the first convolution."""
    layers: int = 3
    """Convolutions of stride 2; each halves the side."""
    loss: Hinge | NonSaturating | HingeNonSaturating = field(default_factory=Hinge)
    balance: Adaptive | Fixed = field(default_factory=Adaptive)
    regulariser: R1 | LeCAM | None = None
    start: int = 50_000
    """Optimiser step at which the discriminator begins to learn."""
    effect_start: int = 50_001
    """Optimiser step at which the decoder begins to feel it."""
    lr: float = 1e-4
    """Learning rate of the discriminator, without warm-up; its other settings are the
    tokenizer's."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.layers < 1:
            raise ValueError(
                "adversary.width must be at least 2 and adversary.layers at least 1, not "
                f"{self.width} and {self.layers}"
            )
        if self.lr <= 0:
            raise ValueError(f"adversary.lr is {self.lr}: it must be positive")
        if self.effect_start < self.start:
            raise ValueError(
                f"adversary.effect_start is {self.effect_start}, before adversary.start "
                f"{self.start}: an untrained discriminator would steer the decoder"
            )

    def check(self, size: int) -> None:
        """Refuse images that leave the discriminator no patch to judge.

        Raises:
            ValueError: images of `size` pixels a side are too small for its layers.
        """
        if size < (least := 3 * 2**self.layers):
            raise ValueError(
                f"adversary.layers: {self.layers} need images of {least} pixels a side or more, "
                f"not {size}: choose larger ones, fewer layers, or adversary:none"
            )

    def build(self, channels: int = 3) -> "PatchDiscriminator":
        """Make the discriminator, of images of so many channels."""
        return PatchDiscriminator(self.width, self.layers, channels)


class PatchDiscriminator(nn.Sequential):
    """One logit per patch (Isola et al. 2017, section 3.2); larger is more real.

    GroupNorm stands where the original has BatchNorm: without statistics of a batch, ranks and
    micro-batches stay exact and real and fake batches do not see one another. It reads images as
    they are: grey, or colours, or colours over white and alpha.
    """

    def __init__(self, width: int = 64, layers: int = 3, channels: int = 3) -> None:
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            blocks += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False),
                nn.GroupNorm(_groups(widths[i]), widths[i]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*blocks, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.apply(_initialise)

    def forward(self, input: Float[Tensor, "b c H W"]) -> Logits:
        """Judge patches of images in [-1, 1]; logits are float32, under autocast too."""
        return super().forward(input).float()


def _groups(width: int) -> int:
    """Up to 32 groups, of four channels or more."""
    return max(n for n in range(1, 33) if width % n == 0 and (width >= 4 * n or n == 1))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _mean(logits: Logits) -> Float[Tensor, " b"]:
    return logits.mean((1, 2, 3))
