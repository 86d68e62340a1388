"""Classifiers of pictures by their pixels, trained where they are needed and kept nowhere."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Images = Float[Tensor, "b c H W"]
"""In [-1, 1]."""
Labels = Int64[Tensor, " b"]
LEFT = 4
"""Sites a side that convolutions leave of a picture."""
LARGE = 32
"""Pixels a side of pictures whose first convolution halves them."""
WIDEST = 128
"""Channels."""


@dataclass(frozen=True)
class Logistic:
    """One linear layer of all pixels, to the best of its weights by L-BFGS."""

    decay: float = 1e-3
    """Weight of the sum of squared weights, beside the mean cross-entropy in nats."""

    def __post_init__(self) -> None:
        if not self.decay >= 0:
            raise ValueError(f"--classifier.decay is {self.decay}: it must be 0 or more")

    def learn(self, images: Images, labels: Labels, classes: int, seed: int = 0) -> nn.Module:
        """Logits of pictures in [-1, 1]; on their device. Nothing is drawn."""
        layer: Any = nn.utils.skip_init(nn.Linear, images[0].numel(), classes, device=images.device)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        model = nn.Sequential(nn.Flatten(), layer)
        search = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            found = cross_entropy(model(images), labels) + self.decay * layer.weight.square().sum()
            found.backward()
            return found

        search.step(loss)
        return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Convolutional:
    """A few convolutions, by AdamW."""

    width: int = 32
    """Channels of the first; twice as many wherever the side is halved again, up to 128."""
    steps: int = 600
    batch_size: int = 64
    lr: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("width", "steps", "batch_size"):
            if (value := getattr(self, name)) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--classifier.{flag} is {value}: it must be at least 1")
        if not self.lr > 0:
            raise ValueError(f"--classifier.lr is {self.lr}: it must be above 0")

    def learn(self, images: Images, labels: Labels, classes: int, seed: int = 0) -> nn.Module:
        """Logits of pictures in [-1, 1]; on their device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._model(images.shape[1], min(images.shape[-2:]), classes)
        model.to(images.device)
        chance = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), self.lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            some = torch.randint(len(images), (self.batch_size,), generator=chance)
            some = some.to(images.device)
            optimizer.zero_grad()
            cross_entropy(model(images[some]), labels[some]).backward()
            optimizer.step()
            schedule.step()
        return model.eval().requires_grad_(False)

    def _model(self, channels: int, side: int, classes: int) -> nn.Module:
        # Most of the work would be at the full size, where little is seen.
        first = 2 if side >= LARGE else 1
        widths, side = [self.width], side // first
        while side // 2 ** len(widths) >= LEFT:
            widths.append(min(2 * widths[-1], max(WIDEST, self.width)))
        layers: list[nn.Module] = [nn.Conv2d(channels, self.width, 3, first, 1), nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
        head = nn.Linear(widths[-1] * LEFT**2, classes)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(LEFT), nn.Flatten(), head)


Classifier = Convolutional | Logistic


@torch.no_grad()
def is_right(
    model: nn.Module, images: Images, labels: Labels, batch_size: int = 256
) -> Float[Tensor, " n"]:
    """1 where a classifier tells a picture right, 0 where it does not."""
    parts = [model(some).argmax(1) for some in images.split(batch_size)]
    return (torch.cat(parts) == labels).float()
