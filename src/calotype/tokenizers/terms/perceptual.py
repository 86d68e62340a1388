"""LPIPS (Zhang et al. 2018, eq. 1), by its authors' package."""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from calotype.lazy import lpips
from calotype.tokenizers.terms.base import Counted, Scores, Term, counting
from calotype.training.images import in_colour, over_black


@dataclass(frozen=True)
class LPIPS:
    """Distance between the features of a frozen ImageNet classifier."""

    weight: float = 1.0
    net: Literal["vgg", "alex", "squeeze"] = "vgg"
    backbone_weights: Path | None = None
    """The classifier's weights as safetensors with torchvision's `features.*` names; None: let
    torchvision fetch them."""

    def check(self, size: int) -> None:
        """Refuse images too small for the backbone.

        Raises:
            ValueError: its last feature map of images of `size` pixels a side would be empty.
        """
        if size < SMALLEST[self.net]:
            raise ValueError(
                f"perceptual.net: {self.net} needs images of {SMALLEST[self.net]} pixels a side or "
                f"more, not {size}: choose larger ones, another net, or perceptual:none"
            )

    def build(self) -> "PerceptualTerm":
        """Make the term.

        Raises:
            ValueError: the backbone's weights can be neither read nor fetched.
        """
        return PerceptualTerm(self._network())

    def _network(self) -> "lpips.LPIPS":
        if self.backbone_weights is not None:
            return with_backbone(self.net, _read(self.backbone_weights))
        try:
            return _network(self.net, pnet_rand=False)
        except (URLError, OSError) as error:
            raise ValueError(
                f"the {self.net} backbone of LPIPS could not be fetched ({error}): give its "
                "weights with --perceptual.backbone-weights FILE.safetensors, or leave the term "
                "out with perceptual:none"
            ) from error


SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17}
"""Pixels a side that leave one site in the backbone's last feature map."""


class PerceptualTerm(Term):
    """Frozen, and always in evaluation mode: the dropout on its linear heads must never run.

    Its backbones know RGB alone: grey is repeated to three channels, and images with alpha are
    looked at on white and on black, and the two distances averaged, so that it sees alpha too.
    """

    def __init__(self, network: "lpips.LPIPS") -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualTerm":
        """Stay in evaluation mode, whatever the module around it does."""
        return super().train(False)

    def forward(
        self, fake: Float[Tensor, "b c H W"], real: Float[Tensor, "b c H W"],
        counted: Counted = None,
    ) -> Float[Tensor, " b"]:  # fmt: skip
        """LPIPS, without unit; the gradient reaches `fake` alone, and `real`'s features keep
        no graph because nothing about them requires one. Under autocast the backbone computes in
        its precision; features are compared in float32.
        """
        return self.beside(real.detach())(counting(fake, real, counted))

    def beside(self, real: Float[Tensor, "b c H W"]) -> Scores:
        """LPIPS from images whose features are computed once."""
        grounds = (in_colour, over_black) if real.shape[1] == 4 else (in_colour,)
        known = [(ground, self._features(ground(real))) for ground in grounds]

        def distance(fake: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
            seen = [self._layers(self._features(on(fake)), there) for on, there in known]
            each = [torch.stack([layer.mean((1, 2, 3)) for layer in layers]).sum(0)
                    for layers in seen]  # fmt: skip
            return torch.stack(each).mean(0)

        return distance

    def everywhere(
        self, fake: Float[Tensor, "b c H W"], real: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b 1 H W"]:
        """Where images are apart: each layer's distances on the images' grid, summed. Their mean
        is about LPIPS; alpha is left out.
        """
        layers = self._layers(*(self._features(in_colour(each)) for each in (fake, real)))
        size = fake.shape[-2:]
        return torch.stack([
            nn.functional.interpolate(layer, size, mode="bilinear", align_corners=False)
            for layer in layers
        ]).sum(0)  # fmt: skip

    def _features(self, images: Float[Tensor, "b 3 H W"]) -> Sequence[Tensor]:
        return self.network.net(self.network.scaling_layer(images))

    def _layers(self, fake: Sequence[Tensor], real: Sequence[Tensor]) -> list[Tensor]:
        """Of features the distance at each site of each layer, [b 1 h w]."""
        with torch.autocast(fake[0].device.type, enabled=False):
            heads = self.network.lins
            return [_distances(*layer) for layer in zip(heads, fake, real, strict=True)]


def _distances(
    head: nn.Module, fake: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b 1 h w"]:
    """One layer's."""
    unit_fake, unit_real = (lpips.normalize_tensor(x.float()) for x in (fake, real))
    return head((unit_fake - unit_real).square())


def with_backbone(net: str, features: Mapping[str, Tensor]) -> "lpips.LPIPS":
    """An LPIPS network over given backbone weights, named `features.N...` as torchvision does.

    Raises:
        ValueError: a weight is missing or has another shape.
    """
    network = _network(net, pnet_rand=True)
    own = network.net.state_dict()
    # lpips cuts torchvision's `features` into slices and keeps the numbers: slice2.5.weight is
    # features.5.weight.
    names = {name: "features." + name.split(".", 1)[1] for name in own}
    for name, source in names.items():
        if source not in features or features[source].shape != own[name].shape:
            raise ValueError(f"LPIPS's {net} backbone needs {source} of {tuple(own[name].shape)}")
    network.net.load_state_dict({name: features[source] for name, source in names.items()})
    return network


def random_backbone(net: str, seed: int) -> "lpips.LPIPS":
    """LPIPS over a seeded random backbone: its gradients flow the right way, its values mean
    nothing. For tests on machines without the weights; no recipe reaches it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _network(net, pnet_rand=True)


def _network(net: str, pnet_rand: bool) -> "lpips.LPIPS":
    # The package calls torchvision by arguments that it has since renamed; it works, and warns.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", module="torchvision")
        return lpips.LPIPS(net=net, pnet_rand=pnet_rand, verbose=False)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"perceptual.backbone_weights: {path} is no safetensors file") from error
