"""Images to rows of a latent cache."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training.images import Pixels, sent_images


@dataclass(frozen=True)
class Encoder:
    """How images become rows of a cache."""

    tokenizer: ImageTokenizer
    fingerprint: str
    """Of the tokenizer's folder."""
    size: int
    """Pixels a side."""
    flipped: bool = False
    """Store each image's mirror image too. Wrong where captions say left and right."""
    dtype: torch.dtype = torch.float16
    """Of stored moments."""

    @property
    def codes(self) -> int | None:
        """How many the tokenizer's ids choose from; None: it packs moments."""
        bottleneck = self.tokenizer.bottleneck
        return bottleneck.codes if isinstance(bottleneck, Discrete) else None

    @property
    def stored(self) -> torch.dtype:
        """Of rows on disk: ids stay integers, whatever `dtype` is."""
        if self.codes is None:
            return self.dtype
        return torch.int16 if self.codes <= 2**15 else torch.int32

    @torch.no_grad()
    def rows(self, images: Pixels, full: int = 0) -> dict[str, Tensor]:
        """Encode images.

        Args:
            images: [b, c, H, W], of 8 bits or in [-1, 1].
            full: Images in a full batch: fewer are filled up, for of batches of one size each
                image becomes the same, whichever are beside it.

        Raises:
            ValueError: what comes out is no numbers.
        """
        images = sent_images(images, self.tokenizer.last_layer.weight.device)
        rows = {"packed": self._pack(images, full)}
        if self.flipped:
            rows["packed_flipped"] = self._pack(images.flip(-1), full)
        for row in rows.values():
            if row.is_floating_point() and not row.isfinite().all():
                raise ValueError(
                    "latents are not finite: the tokenizer's weights are not, or they are too "
                    f"large for {str(self.stored).removeprefix('torch.')}; try --dtype float32"
                )
        return rows

    def _pack(self, images: Tensor, full: int) -> Tensor:
        count = len(images)
        if count < full:
            images = torch.cat([images, images[-1:].expand(full - count, -1, -1, -1)])
        return self.tokenizer.pack(images)[:count].to(self.stored).cpu()


@dataclass(frozen=True)
class Scan:
    """How a source is read."""

    transform: Callable[..., dict[str, Any]] | None
    count: int | None = None
    """Images to encode; None: all."""
    batch_size: int = 64
    workers: int = 0
    shard_size: int = 8192
    """Rows in a shard."""
    crops: int = 1
    """Of each image."""
    frames: bool = False
    """Keep of each row how large its picture was and where it was cropped."""
