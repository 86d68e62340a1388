"""What stands in a trained tokenizer's README.md: how anybody loads it."""

from calotype.tokenizers.tokenizer import ImageTokenizer

STOCK = """---
license: unknown
library_name: diffusers
tags:
- calotype
---

# An image tokenizer

Trained with calotype; loads in plain diffusers.

```python
from diffusers import {kind}
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

tokenizer = {kind}.from_pretrained(".")
pixels = VaeImageProcessor().preprocess(Image.open("picture.png"), {size}, {size})
rebuilt = tokenizer(pixels).sample.detach()
VaeImageProcessor().postprocess(rebuilt)[0].save("rebuilt.png")
```
"""
OWN = """---
license: unknown
library_name: calotype
tags:
- calotype
---

# An image tokenizer

Trained with calotype. No stock class does what its {kind} does, so that calotype alone loads it:

```python
from calotype.tokenizers import ImageTokenizer

tokenizer = ImageTokenizer.load(".")
```
"""


def readme(tokenizer: ImageTokenizer, size: int) -> str:
    """The text for the folder of a tokenizer of images of `size` pixels a side."""
    if (stock := tokenizer.export()) is None:
        return OWN.format(kind=type(tokenizer.bottleneck).__name__)
    return STOCK.format(kind=type(stock).__name__, size=size)
