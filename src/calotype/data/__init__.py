"""Sources of captioned images, and the loader that reads them."""

from calotype.data.batches import Batch
from calotype.data.buckets import Buckets
from calotype.data.colour import AsStored, Colour, ToSRGB
from calotype.data.filters import Filtered
from calotype.data.folder import Folder
from calotype.data.images import BrokenImage, Decoding, read_image
from calotype.data.latents import LatentCache
from calotype.data.loader import Loader, once, some_of
from calotype.data.mixtures import Balanced, Mixture
from calotype.data.openmoji import OpenMoji
from calotype.data.pictures import Example, OnError, Parts, Pictures, Reader, Record, Stream, Whole
from calotype.data.scenes import Scenes
from calotype.data.tables import Hub, Parquet
from calotype.data.transforms import (
    CenterCrop,
    Crop,
    Flip,
    RandomCrop,
    RandomResizedCrop,
    Transform,
)
from calotype.data.webdataset import WebDataset

Source = Scenes | Folder | Parquet | Hub | WebDataset | OpenMoji | Filtered | Balanced | Mixture
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
