"""What pictures are compressed by elsewhere: JPEG, WebP, AVIF and JPEG XL, as Pillow has them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, features
from torch import Tensor

Images = UInt8[Tensor, "b c H W"]


@dataclass(frozen=True)
class Classical:
    """A codec at its qualities, and what makes its files smallest."""

    name: str
    kind: str
    """As Pillow calls it."""
    qualities: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()
    alpha: bool = True
    """Whether it keeps alpha."""

    def compress(self, images: Images, quality: int) -> list[bytes]:
        """Whole files, of images in grey or colours, with alpha or without."""
        return [self._saved(image, quality) for image in images]

    def decompress(self, files: Iterable[bytes], mode: str = "RGB") -> Images:
        """Images of files of one size."""
        found = [np.array(Image.open(BytesIO(file)).convert(mode)) for file in files]
        return (
            torch.from_numpy(np.stack(found))
            .view(len(found), *found[0].shape[:2], -1)
            .movedim(3, 1)
        )

    def _saved(self, image: UInt8[Tensor, "c H W"], quality: int) -> bytes:
        held, pixels = BytesIO(), image.movedim(0, 2).numpy()
        picture = Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)
        picture.save(held, self.kind, quality=quality, **dict(self.options))
        return held.getvalue()


QUALITIES = (1, 5, 10, 20, 35, 50, 70, 85, 95)
CLASSICAL = (
    Classical("JPEG", "JPEG", QUALITIES, (("optimize", True),), alpha=False),
    Classical("WebP", "WEBP", QUALITIES, (("method", 6),)),
    Classical("AVIF", "AVIF", QUALITIES, (("speed", 3),)),
    Classical("JPEG XL", "JXL", QUALITIES, (("effort", 7),)),
)


def at_hand(mode: str = "RGB") -> tuple[list[Classical], dict[str, str]]:
    """Those that this machine has and that keep what pictures of a mode have, and of the others why
    not.
    """
    needs: dict[str, tuple[Callable[[], bool], str]] = {
        "WebP": (lambda: bool(features.check("webp")), "this Pillow was built without it"),
        "AVIF": (lambda: bool(features.check("avif")), "this Pillow was built without it"),
        "JPEG XL": (_jxl, 'pip install "calotype[formats]"'),
    }
    missing = {name: why for name, (there, why) in needs.items() if not there()}
    if mode == "RGBA":
        missing |= {each.name: "it keeps no alpha" for each in CLASSICAL if not each.alpha}
    return [each for each in CLASSICAL if each.name not in missing], missing


def _jxl() -> bool:
    if find_spec("pillow_jxl") is None:
        return False
    import pillow_jxl  # noqa: F401 (which tells Pillow of it)

    return True
