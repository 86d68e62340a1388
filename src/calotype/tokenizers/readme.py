"""What stands in a tokenizer's README.md: how anybody loads it, without calotype."""

from typing import Any

from calotype.tokenizers.stock import mode_of
from calotype.training.images import CHANNELS, Mode

CARD = """---
license: unknown
library_name: {library}
tags:
- calotype
- image-tokenizer
---

# Image tokenizer

Trained with calotype. """
"""Nobody was asked for a licence: `unknown` is the Hub's word for that."""
HERE = """
Paths in these lines begin in this folder: run them here, or write its own path in their place.
"""
"""Behind lines of Python that read the folder which they stand in."""
STOCK = """It turns {pictures} of {size}x{size} pixels into {to} and back, and loads in plain
diffusers.

```python
from diffusers import {kind}
from diffusers.image_processor import VaeImageProcessor
{reads}

tokenizer = {kind}.from_pretrained(".")
pixels = VaeImageProcessor(vae_scale_factor={factor}{how})
{picture}
images = pixels.preprocess(picture, {size}, {size})  # [1, {count}, {size}, {size}] in [-1, 1]
latents = tokenizer.encode(images).{latents}  # [1, {channels}, {side}, {side}]
{ids}pixels.postprocess(tokenizer.decode(latents).sample.detach())[0].save("rebuilt.png")
```
{here}"""
PICTURES: dict[Mode, str] = {"L": "grey pictures", "RGB": "pictures",
                             "RGBA": "pictures with alpha"}  # fmt: skip
LOADED = "from diffusers.utils import load_image", 'picture = load_image("picture.png")'
ON_WHITE = (
    "from PIL import Image",
    """picture = Image.open("picture.png").convert("RGBA").resize(({size}, {size}))
alpha = picture.getchannel("A")
picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
picture.putalpha(alpha)  # colours as they are on white, and alpha""",
)
"""How a picture is read: as diffusers does, and so that its colours are over white."""
ALPHA = """
What is decoded has its colours over white too: `.convert("RGB")` is the picture on white, and
`.getchannel("A")` its alpha. `ImageTokenizer.preprocess` of calotype reads files as they are, and
`calotype.pipelines.picture` writes them so.
"""
LATENTS = {"AutoencoderKL": "latent_dist.mode()", "AsymmetricAutoencoderKL": "latent_dist.mode()",
           "AutoencoderDC": "latent"}  # fmt: skip
"""What classes call what they encode to, where it is not `latents`."""
IDS = "ids = tokenizer.quantize(latents)[2][2]  # of codes, row by row; decode finds them too\n"
OWN = """No stock class holds its codes: `calotype.tokenizers.ImageTokenizer.load(".")` does, and
`calotype reconstruct .` shows what it makes of pictures.
"""


def readme(stock: Any, factor: int, size: int | None = None) -> str:
    """The text for a tokenizer's folder.

    Args:
        stock: An autoencoder of diffusers; None: there is no class for it.
        factor: Pixels a side of what becomes one site of the latent.
        size: Pixels a side of its pictures; None: as its config says, or 256.
    """
    if stock is None:
        return CARD.format(library="calotype") + OWN
    config, kind = stock.config, type(stock).__name__
    size = size or config.get("sample_size")
    size = size if isinstance(size, int) else 256
    side, codes = size // factor, config.get("num_vq_embeddings")
    channels, mode = config["latent_channels"], mode_of(stock)
    reads, picture = ON_WHITE if mode == "RGBA" else LOADED
    text = CARD.format(library="diffusers") + STOCK.format(
        here=HERE, kind=kind, size=size, factor=factor, latents=LATENTS.get(kind, "latents"),
        side=side, channels=channels, ids=IDS if codes else "",
        to=f"{side}x{side} codes of {codes}" if codes else f"{side}x{side}x{channels} latents",
        pictures=PICTURES[mode], count=CHANNELS[mode], reads=reads,
        picture=picture.format(size=size), how=", do_convert_grayscale=True" * (mode == "L"),
    )  # fmt: skip
    return text + ALPHA if mode == "RGBA" else text
