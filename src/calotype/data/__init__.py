"""Sources of captioned images, and the loader that reads them."""

from calotype.data.archives.webdataset import WebDataset
from calotype.data.aspect.buckets import Buckets
from calotype.data.cache.latents import LatentCache
from calotype.data.digits import Digits
from calotype.data.drawn.scenes import Scenes
from calotype.data.drawn.shape_grid import Shapes
from calotype.data.filters import Filtered
from calotype.data.folders.folder import Folder
from calotype.data.loading.batches import Batch
from calotype.data.loading.loader import Loader, once, some_of
from calotype.data.mixtures import Balanced, Mixture
from calotype.data.openmoji import OpenMoji
from calotype.data.pictures import Pictures
from calotype.data.reading.colour import AsStored, Colour, ToSRGB
from calotype.data.reading.images import BrokenImage, Decoding, read_image
from calotype.data.reading.records import Example, OnError, Reader, Record
from calotype.data.reading.transforms import (
    CenterCrop,
    Crop,
    Flip,
    RandomCrop,
    RandomResizedCrop,
    Transform,
)
from calotype.data.streams import Parts, Stream, Whole
from calotype.data.tabular.tables import Hub, Parquet

Drawn = Scenes | OpenMoji | Shapes
"""Sources whose pictures are squares of `size` pixels a side, which may be any."""
Source = Drawn | Digits | Folder | Parquet | Hub | WebDataset | Filtered | Balanced | Mixture
"""Where pictures come from. A new source is a spec whose `build()` makes a dataset, named here."""

__all__ = [
    "AsStored",
    "Balanced",
    "Batch",
    "BrokenImage",
    "Buckets",
    "CenterCrop",
    "Colour",
    "Crop",
    "Decoding",
    "Digits",
    "Drawn",
    "Example",
    "Filtered",
    "Flip",
    "Folder",
    "Hub",
    "LatentCache",
    "Loader",
    "Mixture",
    "OnError",
    "OpenMoji",
    "Parquet",
    "Parts",
    "Pictures",
    "RandomCrop",
    "RandomResizedCrop",
    "Reader",
    "Record",
    "Scenes",
    "Shapes",
    "Source",
    "Stream",
    "ToSRGB",
    "Transform",
    "WebDataset",
    "Whole",
    "once",
    "read_image",
    "some_of",
]
