"""How a tokenizer uses its codes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from PIL import Image, ImageDraw
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.bottlenecks.discrete import perplexity
from calotype.training import Batch
from calotype.training.distributed import all_mean, processes
from calotype.training.images import sent_images


@dataclass(frozen=True)
class CodebookHealth:
    """What the codes of a set of images were chosen for."""

    counts: Int64[Tensor, "codebooks k"]
    """How often each code was chosen."""

    @property
    def sites(self) -> int:
        """Sites of the images, each of which chose a code of every codebook."""
        return int(self.counts[0].sum())

    @property
    def use(self) -> float:
        """Fraction of codes that were chosen at all, a mean over codebooks."""
        return (self.counts > 0).double().mean().item()

    @property
    def perplexity(self) -> float:
        """Exp of the entropy of the codes' frequencies in nats, a mean over codebooks: as many
        codes used alike would have it.
        """
        return perplexity(self.counts.double()).mean().item()


@torch.no_grad()
def codebook_health(tokenizer: ImageTokenizer, batches: Iterable[Batch]) -> CodebookHealth:
    """Encode images and count the codes; of several ranks each gives images of its own, and all get
    the counts of all.

    Raises:
        ValueError: the tokenizer has no codes.
    """
    bottleneck = tokenizer.bottleneck
    if not isinstance(bottleneck, Discrete):
        raise ValueError(f"{type(bottleneck).__name__} has no codes to count")
    device = tokenizer.last_layer.weight.device
    counts = torch.zeros(bottleneck.codebooks, bottleneck.codes, dtype=torch.int64, device=device)
    for batch in batches:
        ids = tokenizer.pack(sent_images(batch["image"], device)).long()
        bottleneck.tally(ids, counts)
    world = processes().num_processes
    exact = counts.float() if device.type == "mps" else counts.double()
    total = all_mean(exact) * world
    return CodebookHealth(total.round().long().cpu())


def draw_histogram(health: CodebookHealth, path: Path, width: int = 512, height: int = 160) -> None:
    """Save the codes' frequencies, the most frequent first, as bars on a logarithmic axis, one
    strip for each codebook; codes that were never chosen leave white.
    """
    codebooks = len(health.counts)
    image = Image.new("RGB", (width, codebooks * (height + 4)), "white")
    ink = ImageDraw.Draw(image)
    for strip, counts in enumerate(health.counts):
        ordered = counts.sort(descending=True).values.double()
        places = torch.linspace(0, len(ordered) - 1, width).round().long()
        heights = (1 + ordered[places]).log() / (1 + ordered[0]).log().clamp_min(1e-9)
        bottom = (strip + 1) * (height + 4) - 4
        for x, part in enumerate(heights.tolist()):
            if part > 0:
                ink.line((x, bottom, x, bottom - part * (height - 1)), fill=(40, 90, 160))
    image.save(path)
