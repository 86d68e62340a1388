"""What is drawn beside the pictures that were learnt from."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from calotype.data import CenterCrop, Folder, Transform, once
from calotype.evaluation.distances import Nearest
from calotype.training.images import scaled

LOOKED_AT = 2048
"""Pictures that are compared, at most."""
BATCH = 128
COARSE = 16
"""Pixels a side at which they are: fine texture, which a small model does not draw, would decide
otherwise."""


def nearest(drawn: Float[Tensor, "n c H W"], data: Folder, size: int) -> Float[Tensor, "n c H W"]:
    """Of each drawing in [-1, 1] the picture nearest to it by the Euclidean distance of pixels at a
    coarse resolution, mirrored where that is nearer, of the first `LOOKED_AT`.
    """
    found, best = Nearest(_coarse(drawn)), drawn.clone()
    dataset = data.build()
    rows = range(min(len(dataset), LOOKED_AT))
    for batch in once(dataset, BATCH, Transform(CenterCrop(size)), rows=rows):
        shown = scaled(batch["image"])
        for images in (shown, shown.flip(-1)):
            first = found.seen
            found.add(_coarse(images))
            nearer = found.places >= first
            best[nearer] = images[found.places[nearer] - first]
    return best


def _coarse(images: Float[Tensor, "n c H W"]) -> Float[Tensor, "n d"]:
    return adaptive_avg_pool2d(images, COARSE).flatten(1)
