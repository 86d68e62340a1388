"""Images as Pillow's pictures."""

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from calotype.data.reading.transforms import eight_bits, straight
from calotype.lazy import torchvision


def picture(image: Float[Tensor, "c H W"]) -> Image.Image:
    """An image of [-1, 1] as a picture of mode L, RGB or RGBA; what is outside is clipped. Colours
    over white become those that a file has beside its alpha.
    """
    # Of floats it would cut, not round.
    return torchvision.transforms.v2.functional.to_pil_image(eight_bits(straight(image)))
