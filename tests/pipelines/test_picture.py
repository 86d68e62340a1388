"""Pictures that are saved."""

import numpy as np
from PIL import Image

from calotype.data.reading.transforms import pixels
from calotype.pipelines import picture


def test_a_saved_picture_has_the_levels_of_the_data():
    """Bug: levels were cut and not rounded, so that a quarter of them came out one too dark."""
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert (np.asarray(picture(pixels(Image.fromarray(levels)))) == levels).all()
