"""Sources of captioned images, and the loader that reads them."""

from calotype.data.batches import Batch
from calotype.data.folder import Folder
from calotype.data.images import BrokenImage, read_image
from calotype.data.latents import LatentCache
from calotype.data.loader import Loader, once
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

Source = Scenes | Folder | Parquet | Hub | WebDataset | OpenMoji
"""Where pictures come from. A new source is a spec whose `build()` makes a dataset, named here."""

__all__ = [
    "Batch",
    "BrokenImage",
    "CenterCrop",
    "Crop",
    "Example",
    "Flip",
    "Folder",
    "Hub",
    "LatentCache",
    "Loader",
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
    "Transform",
    "WebDataset",
    "Whole",
    "once",
    "read_image",
]
