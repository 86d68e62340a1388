"""Libraries that take long to import, each imported when something of it is first used.

`from calotype.lazy import diffusers`, then `diffusers.VQModel`, in quotes where it annotates. So a
command's `--help` and its answer to a mistake wait for torch and for nothing else.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any


class Lazy:
    """A module, imported when a class, function or submodule of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        module, below = import_module(self._name), f"{self._name}.{attribute}"
        found = getattr(module, attribute, None)
        # A submodule that is there may have some of its own that are not.
        if found is not None and getattr(found, "__name__", None) != below:
            return found
        if not isinstance(found, ModuleType) and find_spec(below) is None:
            raise AttributeError(f"{self._name} has no {attribute}")
        return Lazy(below)

    def __setattr__(self, attribute: str, value: Any) -> None:
        # What is set is the module's, as if it were at hand.
        if attribute == "_name":
            super().__setattr__(attribute, value)
        else:
            setattr(import_module(self._name), attribute, value)


if TYPE_CHECKING:
    import accelerate
    import accelerate.state
    import accelerate.tracking
    import accelerate.utils
    import constriction
    import datasets
    import datasets.config
    import datasets.exceptions
    import diffusers
    import diffusers.models.attention_processor
    import diffusers.models.autoencoders.vae
    import diffusers.models.upsampling
    import diffusers.training_utils
    import diffusers.utils.torch_utils
    import huggingface_hub
    import huggingface_hub.errors
    import lpips
    import matplotlib.figure
    import peft
    import pyarrow.compute
    import pyarrow.ipc
    import pyarrow.parquet
    import scipy.fft
    import scipy.ndimage
    import scipy.stats
    import skimage.restoration
    import sklearn.datasets
    import sklearn.decomposition
    import sklearn.linear_model
    import sklearn.metrics
    import sklearn.mixture
    import sklearn.neighbors
    import sklearn.pipeline
    import sklearn.preprocessing
    import torchvision.models
    import torchvision.transforms.v2.functional
    import torchvision.utils
    import transformers
    import umap
else:
    accelerate = Lazy("accelerate")
    constriction = Lazy("constriction")
    datasets = Lazy("datasets")
    diffusers = Lazy("diffusers")
    huggingface_hub = Lazy("huggingface_hub")
    lpips = Lazy("lpips")
    matplotlib = Lazy("matplotlib")
    peft = Lazy("peft")
    pyarrow = Lazy("pyarrow")
    scipy = Lazy("scipy")
    skimage = Lazy("skimage")
    sklearn = Lazy("sklearn")
    torchvision = Lazy("torchvision")
    transformers = Lazy("transformers")
    umap = Lazy("umap")

__all__ = [
    "accelerate", "constriction", "datasets", "diffusers", "huggingface_hub", "lpips",
    "matplotlib", "peft", "pyarrow", "scipy", "skimage", "sklearn",
    "torchvision", "transformers", "umap",
]  # fmt: skip
