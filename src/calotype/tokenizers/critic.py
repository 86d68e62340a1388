"""The learner that tells real images from rebuilt ones."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.tokenizers.gradients import squared_gradient
from calotype.tokenizers.objectives import Images, Reconstruction
from calotype.tokenizers.terms import R1, Adversary, LeCAM
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.distributed import all_mean
from calotype.training.objective import Rows

WON = 0.95
"""Share of patches told apart from which on a discriminator has won. Where the game is even it is
about half; Karras et al. (2020, "Training generative adversarial networks with limited data",
section 3.1) hold the sign of the logits of originals at 0.6, which is a share of 0.8."""
JUDGED = 50
"""Passes of the discriminator, at least, from which it is told whether it has won."""


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
