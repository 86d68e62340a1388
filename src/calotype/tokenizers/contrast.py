"""Contrast: latents that are alike for two views of a picture, and unlike for two pictures."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.bottlenecks.base import check_weight
from calotype.tokenizers.encoder_terms import EncoderTerm, Seen
from calotype.tokenizers.gradients import Images
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training.distributed import all_gather_with_gradient, own_place
from calotype.training.noise import Generators, drawn_from


@dataclass(frozen=True)
class Views:
    """What may differ between two views of a picture; what latents then keep is the rest."""

    crop: float = 0.5
    """Least share of the area that is seen, enlarged; 1: all is."""
    flip: bool = True
    """Whether half of them are mirrored."""
    jitter: float = 0.4
    """Largest change of brightness, contrast and saturation, as a share; 0: none."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"contrast.views.crop is {self.crop}: it lies in (0, 1]")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"contrast.views.jitter is {self.jitter}: it lies in [0, 1)")

    def __call__(self, images: Images, generators: Generators) -> Images:
        """One view of each image in [-1, 1], drawn by its own generator; alpha keeps its values."""
        from torchvision.transforms import v2

        place = v2.Compose([
            v2.RandomResizedCrop(list(images.shape[2:]), (self.crop, 1.0)),
            v2.RandomHorizontalFlip(0.5 if self.flip else 0.0),
        ])  # fmt: skip
        colour = v2.ColorJitter(*[self.jitter] * 3)

        def drawn(image: Tensor, generator: torch.Generator) -> Tensor:
            with drawn_from(generator):
                seen = place((image + 1) / 2).clamp(0, 1)
                return torch.cat([colour(seen[:3]), seen[3:]]) * 2 - 1

        return torch.stack([drawn(*each) for each in zip(images, generators, strict=True)])


@dataclass(frozen=True)
class InfoNCE(EncoderTerm):
    """How hard it is to tell a view's picture among all pictures of the step, of all ranks, by its
    latent: the cross-entropy of that choice, in nats (van den Oord et al. 2018, eq. 4; Chen et al.
    2020, eq. 1, without a head). Latents are those that nothing is drawn of, means over the sites
    of a map, on the unit sphere. One value for each picture, the mean of its two views.
    """

    weight: float = 0.1
    temperature: float = 0.1
    """That cosines are divided by."""
    views: Views = field(default_factory=Views)

    compares = True

    def __post_init__(self) -> None:
        check_weight("contrast.weight", self.weight)
        if self.temperature <= 0:
            raise ValueError(f"contrast.temperature is {self.temperature}: it must be positive")

    def __call__(self, tokenizer: ImageTokenizer, seen: Seen) -> Float[Tensor, " b"]:
        """The weighted choice's cross-entropy."""
        views = [self.views(seen.clean, seen.generators) for _ in range(2)]
        latents = tokenizer.latents(torch.cat(views))
        with torch.autocast(latents.device.type, enabled=False):
            pooled = F.normalize(latents.float().mean((2, 3)), dim=1)
            return self.weight * self.scored(*pooled.chunk(2))

    def scored(self, one: Float[Tensor, "b c"], other: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
        """The cross-entropy, of two views' latents on the sphere."""
        # View v of picture i is 2 i + v.
        every = all_gather_with_gradient(torch.stack([one, other], 1)).flatten(0, 1)
        first = 2 * (torch.arange(len(one), device=one.device) + own_place(len(one)))
        found = []
        for own, view in enumerate((one, other)):
            logits = view @ every.T / self.temperature
            itself = F.one_hot(first + own, len(every)).bool()
            chosen = first + 1 - own
            masked = logits.masked_fill(itself, -torch.inf)
            found.append(F.cross_entropy(masked, chosen, reduction="none"))
        return torch.stack(found).mean(0)
