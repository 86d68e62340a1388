"""Pictures restored from what was seen of them, by a tokenizer or a diffusion model."""

from dataclasses import dataclass

from calotype.pipelines import Pipeline
from calotype.tokenizers import ImageTokenizer
from calotype.uses.restoration.measurements import (
    Colourise,
    Deblur,
    Denoise,
    Images,
    Measurement,
    Seen,
    SuperResolve,
    Uncover,
)
from calotype.uses.restoration.optimising import Optimise
from calotype.uses.restoration.sampling import Posterior, tokenizer_of
from calotype.uses.restoration.tasks import Inpaint, Task, measured

__all__ = [
    "Colourise", "Deblur", "Denoise", "Forward", "Inpaint", "Measurement", "Optimise", "Posterior",
    "SuperResolve", "Task", "Uncover", "Way", "measured", "restore", "tokenizer_of",
]  # fmt: skip


@dataclass(frozen=True)
class Forward:
    """Once through a tokenizer that was trained by such a corruption; one that was not gives back
    what it sees, as far as its latents hold it.
    """

    def __call__(self, tokenizer: ImageTokenizer, measurement: Measurement, seen: Seen) -> Images:
        """Encode and decode, with gradients."""
        return tokenizer(measurement.lifted(seen))


Way = Forward | Optimise | Posterior


def restore(
    model: ImageTokenizer | Pipeline, seen: Seen, measurement: Measurement, way: Way | None = None,
    keep: bool | None = None,
) -> Images:  # fmt: skip
    """Restore images [b, c, H, W], about [-1, 1], from what was seen of them.

    Args:
        model: A tokenizer, ours or stock, or a pipeline, whose tokenizer it is but for `Posterior`,
            which draws by all of it. In evaluation mode.
        seen: [b, k, h, w], as the measurement gives it; on the model's device.
        measurement: What became of the images.
        way: None: `Forward`.
        keep: Whether what is known of the images is put back: of `Uncover` the pixels that are
            seen, of `SuperResolve` means of blocks, of `Colourise` the luma. Noise comes with it.
            None: of all but `SuperResolve`, where there is no noise.

    Returns:
        Images on the model's device. By `Forward`, which has gradients, the others have none.

    Raises:
        ValueError: `Posterior` is given no pipeline of a UNet, or images are of no whole number of
            the tokenizer's sites.
    """
    way = way or Forward()
    own = model if isinstance(model, ImageTokenizer) else tokenizer_of(model)
    for side in seen.shape[-2:]:
        own.check(side * measurement.shrinks)
    if isinstance(way, Posterior):
        if isinstance(model, ImageTokenizer):
            raise ValueError(
                "Posterior draws by a diffusion model: give a pipeline, not a tokenizer"
            )
        images = way(model, measurement, seen)
    else:
        images = way(own, measurement, seen)
    if keep is None:
        keep = measurement.keeps and not measurement.noise
    images = images.float()
    return measurement.kept(images, seen) if keep else images
