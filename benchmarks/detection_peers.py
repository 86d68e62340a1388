"""anomalib's PatchCore and PaDiM, fed by VGG16's features: their own backbones' weights are a
download, and these are in a file.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import vgg16

from calotype.training.images import scaled
from calotype.uses.detection import Figures, Pictures, figures

SIDE = 128
"""Pixels a side that pictures are enlarged to."""
STRIDES = {4: "15", 8: "22", 16: "29"}
"""Layers by pixels of one of their sites: the last activations before each pooling."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def backbone(weights: Path) -> nn.Module:
    """VGG16's convolutions as ImageNet trained them."""
    network = vgg16(weights=None).features
    named = load_file(weights)
    network.load_state_dict({name.removeprefix("features."): w for name, w in named.items()})
    return network.eval()


def patchcore(pictures: Pictures, weights: Path, part: float) -> Figures:
    """PatchCore at strides of 8 and 16 as the paper's, with a coreset of `part` of all vectors."""
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    layers = [STRIDES[8], STRIDES[16]]
    model = PatchcoreModel(layers, backbone(weights))  # type: ignore[arg-type]
    model.train()
    model.feature_extractor.eval()
    for batch in _batches(pictures.normal):
        model(batch)
    model.subsample_embedding(part)
    return _measured(model.eval(), pictures)


def padim(pictures: Pictures, weights: Path, channels: int = 100) -> Figures:
    """PaDiM at strides of 4, 8 and 16, of so many channels drawn at random, as the paper's."""
    from anomalib.models.image.padim.torch_model import PadimModel

    torch.manual_seed(0)
    model = PadimModel(backbone(weights), [*STRIDES.values()], n_features=channels)  # type: ignore[arg-type]
    model.train()
    model.feature_extractor.eval()
    for batch in _batches(pictures.normal):
        model(batch)
    model.fit()
    return _measured(model.eval(), pictures)


@torch.no_grad()
def _measured(model: nn.Module, pictures: Pictures) -> Figures:
    assert pictures.anomalous is not None
    found = [model(batch) for batch in _batches(pictures.test)]
    size = pictures.test.shape[-2:]
    scores = torch.cat([each.pred_score.flatten() for each in found]).numpy()
    maps = torch.cat([each.anomaly_map.view(-1, 1, SIDE, SIDE) for each in found])
    small = functional.interpolate(maps, size, mode="area")[:, 0]
    return figures(scores.astype(np.float64), pictures.anomalous, small.numpy(), pictures.masks)


def _batches(images: Tensor, each: int = 16) -> Iterator[Tensor]:
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    for batch in images.split(each):
        large = functional.interpolate(scaled(batch), (SIDE, SIDE), mode="bilinear")
        yield ((large + 1) / 2 - mean) / std
